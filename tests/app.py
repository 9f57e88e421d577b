"""Runs `hiera-det app` as its users do, and looks at what it serves; it needs gradio: pip install 'hiera_det[app]'.

It is no part of the tests, which do not have gradio. With Chromium and playwright it looks at the page too.

Example:
    python tests/app.py
    python tests/app.py --browser /usr/bin/chromium --picture page.png
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))


def make_run(folder: Path) -> Path:
    """A run of random weights."""
    import torch
    from conftest import CONFIG, TINY
    from detectron2.modeling import build_model

    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.train.checkpoint import HieraCheckpointer

    torch.manual_seed(0)
    folder.mkdir()
    cfg = load_config(str(CONFIG), [*TINY, "OUTPUT_DIR", str(folder)])
    checkpointer = HieraCheckpointer(build_model(cfg), str(folder))
    checkpointer.categories = [{"id": 7, "name": "fig"}, {"id": 42, "name": "date"}]
    checkpointer.save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "threshold.json").write_text('{"threshold": 0.2, "f1": 0.5, "by_class": {}}')
    return folder


def start(run: Path, port: int) -> subprocess.Popen[str]:
    """The command, once it answers; its first word must come within 5 s."""
    words = [sys.executable, "-m", "hiera_det", "app", "--run", str(run), "--port", str(port), "--device", "cpu"]
    since = time.monotonic()
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root})
    assert process.stdout
    assert process.stdout.readline() == "hiera-det app: starting\n"
    print(f"first word after {time.monotonic() - since:.1f} s")
    assert process.stdout.readline().startswith(f"http://127.0.0.1:{port}")
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
            break
        except urllib.error.URLError:
            time.sleep(0.1)
    print(f"page after {time.monotonic() - since:.1f} s")
    return process


def check_served(port: int) -> None:
    """The page is for this machine alone, and may ask for nothing elsewhere."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    other = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"})
    status = 200
    try:
        urllib.request.urlopen(other).close()
    except urllib.error.HTTPError as error:
        status = error.code
    assert status == 400, "another name is answered"
    with socket.socket() as probe:
        probe.settimeout(2)
        outside = socket.gethostbyname(socket.gethostname())
        assert outside.startswith("127.") or probe.connect_ex((outside, port)), "other machines are answered"


def check_prediction(port: int, image: Path) -> None:
    """Gradio's own client gets the picture and the table, above the run's own threshold and above another."""
    from gradio_client import Client, handle_file

    client = Client(f"http://127.0.0.1:{port}", verbose=False)
    client.predict(handle_file(str(image)), api_name="/predict")
    counts = {}
    for least in (0.05, 1.0):
        drawn, table = client.predict(least, api_name="/show")
        counts[least] = len(table["data"])
        assert Image.open(drawn if isinstance(drawn, str) else drawn["path"]).size == (96, 64)
        assert {row[1] for row in table["data"]} <= {"fig", "date"}
    assert counts[0.05] > counts[1.0] == 0, counts
    print(f"{counts[0.05]} objects above 0.05")


def look(port: int, image: Path, browser: str, picture: str) -> None:
    """The page in a browser: what is dropped is drawn, no error, and nothing is asked of the network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        page = play.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        errors, asked = [], []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector("input[type=file]", state="attached")
        page.set_input_files("input[type=file]", str(image))
        page.wait_for_function("document.querySelectorAll('img').length >= 2")
        page.wait_for_timeout(1000)
        if picture:
            page.screenshot(path=picture, full_page=True)
        assert not errors, errors
        assert all(url.startswith((f"http://127.0.0.1:{port}", "data:", "blob:")) for url in asked), asked
    print("the page has no error, and asks for nothing elsewhere")


def main() -> None:
    """Start, look, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default="", help="of Chromium, with playwright")
    parser.add_argument("--picture", default="", help="file for what it shows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        image = Path(name) / "a.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(image)
        process = start(make_run(Path(name) / "run"), port)
        try:
            check_served(port)
            check_prediction(port, image)
            if args.browser:
                look(port, image, args.browser, args.picture)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=20)[0]
            assert (process.returncode, said) == (0, "stopped\n"), (process.returncode, said)
        finally:
            process.kill()
    print("stopped by Ctrl-C, status 0")


if __name__ == "__main__":
    main()
