"""The trunk under torch.compile, with a backend that runs the traced graph as it is: no C++ is compiled here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model

from hiera_det.d2.config.load import load_config
from hiera_det.d2.model.flops import count_detector
from hiera_det.d2.train.checkpoint import HieraCheckpointer
from hiera_det.engine import compilation
from hiera_det.errors import InputError

CONFIG = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t_1x.yaml")
TINY = ["MODEL.DEVICE", "cpu", "MODEL.HIERA.EMBED_DIM", "8", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]"]
TINY += ["MODEL.FPN.OUT_CHANNELS", "8", "MODEL.HIERA.WINDOW_SIZE", "[8, 4, 0, 0]", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
TINY += ["MODEL.HIERA.DROP_PATH_RATE", "0.0"]


def config(*opts: str) -> CfgNode:
    return load_config(CONFIG, [*TINY, *opts])


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that are run, one entry for each run."""
    run: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        def recorded(*arguments: Any) -> Any:
            run.append(graph)
            return graph(*arguments)

        return recorded

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return run


def test_compiled_and_plain_trunks_compute_the_same_in_evaluation_and_training(graphs: list[Any]) -> None:
    torch.manual_seed(0)
    compiled, plain = build_backbone(config("MODEL.HIERA.COMPILE", "True")), build_backbone(config())
    plain.load_state_dict(compiled.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(images), plain.eval()(images))
    assert len(graphs) == 1
    assert list(compiled.state_dict()) == list(plain.state_dict())
    directions = [torch.randn_like(map_) for map_ in plain(images).values()]
    for backbone in (compiled.train(), plain.train()):
        torch.autograd.backward(list(backbone(images).values()), directions)
    assert len(graphs) == 2
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4 * theirs.grad.abs().max().item())


def test_checkpoints_fit_compiled_and_plain_detectors_alike(tmp_path: Path) -> None:
    compiled, plain = build_model(config("MODEL.HIERA.COMPILE", "True")), build_model(config())
    for source, target in ((compiled, plain), (plain, compiled)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.normal_()
        HieraCheckpointer(source, str(tmp_path)).save("model_final")
        HieraCheckpointer(target).load_detector(str(tmp_path / "model_final.pth"))
        torch.testing.assert_close(dict(target.state_dict()), dict(source.state_dict()), rtol=0, atol=0)


def test_counting_operations_compiles_nothing(graphs: list[Any]) -> None:
    assert count_detector(config("MODEL.HIERA.COMPILE", "True"), 64, 64) == count_detector(config(), 64, 64)
    assert not graphs


@pytest.mark.parametrize(
    ("compiler", "headers", "says"),
    [
        ("no-such-compiler -O2", None, "there is no C\\+\\+ compiler no-such-compiler"),
        (None, "/no/such/folder", r"there is no Python\.h in /no/such/folder"),
    ],
)
def test_what_compiling_needs_is_looked_for_first(
    compiler: str | None, headers: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == "no-such-compiler" else name)
    monkeypatch.setenv("CXX", compiler or "")
    if headers:
        monkeypatch.setattr(compilation.sysconfig, "get_path", lambda _: headers)
    with pytest.raises(InputError, match=f"COMPILE True: {says}") as caught:
        build_backbone(config("MODEL.HIERA.COMPILE", "True"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["2.5.0+cu124", "2.6.0"])
def test_a_pytorch_that_comes_to_no_end_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    with pytest.raises(InputError, match=r"COMPILE True: PyTorch 2\.\d\.0\S* comes to no end .* take 2\.7 or newer"):
        build_model(config("MODEL.HIERA.COMPILE", "True"))


def test_a_python_that_pytorch_cannot_compile_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Dynamo is not supported on Python 9.0+\nmore")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(InputError, match=r"COMPILE True: Dynamo is not supported on Python 9\.0\+; set it to False"):
        build_backbone(config("MODEL.HIERA.COMPILE", "True"))


def test_on_a_cpu_it_is_said_that_it_wins_nothing(graphs: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    build_backbone(config("MODEL.HIERA.COMPILE", "True"))
    assert [line for line in caplog.messages if line.startswith("MODEL.HIERA.COMPILE True: on a CPU")]
