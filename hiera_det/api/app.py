"""A local page to drop images on: what a run's detector finds, drawn and listed, above a score that can be moved.

It is served to this machine alone and asks the network for nothing; a header forbids the browser to do so too.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from hiera_det.api.run import Run, open_run
from hiera_det.errors import InputError, printable
from hiera_det.extras import need
from hiera_det.files import StrPath
from hiera_det.predict.prediction import Prediction
from hiera_det.report.threshold import read_threshold

__all__ = ["HOST", "build_app", "serve_app"]

#: Other machines are not answered.
HOST = "127.0.0.1"
#: Least score that the slider can be moved to.
LEAST = 0.05
COLUMNS = ("number", "class", "score", "x", "y", "width", "height")
#: Pictures may also be made in the page itself; the rest comes from this server.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


def serve_app(output: StrPath, port: int = 7860, device: str | None = None) -> None:
    """Serve a run's page until Ctrl-C.

    Args:
        output: the folder of a detector's run.
        port: of this machine.
        device: ``cpu`` or ``cuda``; None for a GPU where there is one.

    Raises:
        InputError: gradio is not installed, the port is taken, or the run has no detector.
    """
    need("gradio", "the page", "'hiera_det[app]'")
    _check_port(port)
    with tempfile.TemporaryDirectory(prefix="hiera_det_app") as folder:
        # gradio reads these when it is imported; what is dropped on the page goes when the page does.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1"}
        app = build_app(open_run(output), device)
        import uvicorn

        config = uvicorn.Config(app, HOST, port, log_level="critical", timeout_graceful_shutdown=1)
        print(f"http://{HOST}:{port}  (Ctrl-C stops it)", flush=True)
        uvicorn.Server(config).run()


def _check_port(port: int) -> None:
    """Refuse a port that is none, or that another program has."""
    if not 0 < port < 65536:
        raise InputError(f"--port {port}: ports are from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port}: cannot be had ({error.strerror}); give another") from None


def build_app(run: Run, device: str | None = None) -> Any:
    """The page as a FastAPI application.

    Raises:
        InputError: the run has no detector.
    """
    if run.task not in ("detect", "torchvision"):
        raise InputError(f"{run.output}: is no detector's run; give one of hiera-det train")
    threshold = read_threshold(run.output, run.weights)
    predictor = run.weights.predictor(threshold=min(LEAST, threshold.score), device=device)
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # A page of the web whose name leads to this machine must not read what is here.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    app.add_middleware(_StayHere)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gradio.themes.Default(**fonts)  # its own fonts would come from the network
    page = _Page(predictor, run, threshold.score).build(gradio)
    return gradio.mount_gradio_app(app, page, "/", server_name=HOST, theme=theme, footer_links=[], ssr_mode=False)


class _StayHere:
    """Has each answer forbid the browser to ask anybody else."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


class _Page:
    """What is on the page, and what it does."""

    def __init__(self, predictor: Any, run: Run, threshold: float) -> None:
        self.predictor, self.run, self.threshold = predictor, run, threshold

    def build(self, gradio: Any) -> Any:
        """The page's layout."""
        self.error = gradio.Error
        name = printable(Path(self.run.output).resolve().name)
        with gradio.Blocks(title=f"hiera_det: {name}", analytics_enabled=False) as page:
            gradio.Markdown(
                f"### {name}: {os.path.basename(self.run.weights)}, {len(self.predictor.class_names)} classes"
            )
            found = gradio.State()
            with gradio.Row():
                with gradio.Column():
                    words = {"label": "image", "sources": ["upload", "clipboard"], "height": 480}
                    image = gradio.Image(type="filepath", image_mode=None, **words)
                    slider = gradio.Slider(LEAST, 1, self.threshold, step=0.01, label="least score")
                with gradio.Column():
                    # As a PNG: what is seen is what was drawn.
                    buttons = ["download", "fullscreen"]  # and not the one that sends it to a site
                    drawn = gradio.Image(label="found", interactive=False, format="png", height=480, buttons=buttons)
                    table = gradio.Dataframe(headers=list(COLUMNS), label="objects", interactive=False)
            shown = {"outputs": [drawn, table], "show_progress": "hidden"}
            predicted = image.change(self.predict, image, found, concurrency_id="model", api_name="predict")
            predicted.then(self.show, [found, slider], api_name="show", **shown)
            slider.change(self.show, [found, slider], trigger_mode="always_last", api_name=False, **shown)
        return page

    def predict(self, file: str | None) -> Prediction | None:
        """What is on the image that was dropped."""
        if not file:
            return None
        try:
            (found,) = self.predictor.predict_files([file])
        except (InputError, RuntimeError, MemoryError) as error:
            reason = str(error).removeprefix(f"{file}: ")
            raise self.error(" ".join(reason.split())[:300], duration=None) from None
        assert isinstance(found, Prediction)
        return found

    def show(self, found: Prediction | None, threshold: float) -> tuple[Any, list[list[Any]]]:
        """The picture, and the rows of the table."""
        if found is None:
            return None, []
        kept = found.above(threshold)
        rows = enumerate(zip(kept.names, kept.coco_results(0), strict=True))
        cells = [
            [number, printable(name), round(row["score"], 3), *(round(side, 1) for side in row["bbox"])]
            for number, (name, row) in rows
        ]
        return kept.draw(), cells
