"""Exported files: what they compute, the names and facts in them, and what cannot be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hiera_det import HieraForClassification, export_model
from hiera_det.cli.main import main
from hiera_det.d2.predict.predictor import Predictor
from hiera_det.errors import InputError
from hiera_det.export import formats
from hiera_det.weights.model_file import write_model_file

FIELDS: dict[str, Any] = {"embed_dim": 16, "num_heads": 1, "depths": [1, 1, 1, 1], "pretrain_size": 64}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "flowers.pth"
    torch.manual_seed(0)
    write_model_file(path, HieraForClassification(num_classes=2, **FIELDS), FIELDS, ("aster", "bellflower"))
    return path


@pytest.mark.parametrize(
    ("part", "format", "options"),
    [
        ("pyramid", "onnx", {"dynamic": True}),
        ("trunk", "torch", {"size": (128, 96), "half": True}),
        ("pyramid", "torchscript", {}),
    ],
)
def test_maps_by_name_are_those_of_the_model(
    part: str, format: str, options: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "maps"
    off = export_model(run_folder, path, part=part, format=format, **options)
    assert off is not None
    assert 0 <= off < (3e-2 if options.get("half") else 1e-4)
    backbone = Predictor.from_folder(run_folder).model.backbone
    images = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        maps = backbone(images) if part == "pyramid" else backbone.trunk(images)
    found = formats.run_file(path, format)(images)
    assert (
        [*found] == [*maps] == (["p2", "p3", "p4", "p5", "p6"] if part == "pyramid" else [*backbone.trunk.out_features])
    )
    for name, map_ in maps.items():
        torch.testing.assert_close(
            found[name], map_, rtol=0, atol=float(map_.abs().max()) * (3e-2 if options.get("half") else 1e-4)
        )


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_a_detector_finds_the_same_at_other_sizes(format: str, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "detector"
    export_model(run_folder, path, format=format, dynamic=True, threshold=0.0)
    detector = Predictor.from_folder(run_folder, threshold=0.0).model
    run = formats.run_file(path, format)
    for size in ((64, 90), (150, 77)):
        image = torch.randint(0, 256, (3, *size)).float()
        with torch.no_grad():
            (expected,) = detector.inference([{"image": image}], do_postprocess=False)
        found = run(image)
        assert len(expected) > 0
        assert [*found] == ["boxes", "scores", "classes", "masks"]
        torch.testing.assert_close(found["scores"], expected.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(found["boxes"], expected.pred_boxes.tensor, rtol=0, atol=0.05)
        torch.testing.assert_close(found["masks"], expected.pred_masks, rtol=0, atol=1e-3)


def test_a_file_says_how_it_is_used(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    monkeypatch.setattr("sys.argv", ["hiera-det", "export", "--weights", str(classifier), "--output", "flowers.onnx"])
    monkeypatch.chdir(tmp_path)
    main()
    assert "run as a check, it differs by" in capsys.readouterr().out
    facts = {entry.key: json.loads(entry.value) for entry in onnx.load("flowers.onnx").metadata_props}
    assert facts["classes"] == ["aster", "bellflower"]
    assert (facts["part"], facts["colour_order"]) == ("classifier", "RGB")
    assert facts["mean"] == [123.675, 116.28, 103.53]
    assert facts["size"] == {"resize_shorter_side": 73, "crop": 64, "multiple_of": 32, "at_least": 64}
    export_model(classifier, "flowers.ts", format="torchscript", check=False)
    extra = {formats.METADATA: ""}
    torch.jit.load("flowers.ts", _extra_files=extra)
    assert json.loads(extra[formats.METADATA]) == {name: facts[name] for name in json.loads(extra[formats.METADATA])}


def test_what_cannot_be_exported_is_told_in_a_line(classifier: Path, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    for model, options, message in (
        (run_folder, {"format": "torch"}, "a detector's heads choose by values.* take format onnx"),
        (run_folder, {"opts": {"MODEL.WEIGHTS": "absent.pth"}}, r"weights 'absent\.pth': no such file"),
        (run_folder, {"part": "classifier"}, "part classifier: this detector has none"),
        (classifier, {"part": "pyramid"}, "part pyramid: .* has none"),
        (classifier, {"threshold": 0.5}, "are a detector's, and this is none"),
        (classifier, {"size": (64, 65)}, r"size \(64, 65\): give height and width, multiples of 32"),
        (classifier, {"dynamic": True, "size": (64, 64)}, "or dynamic for all sizes"),
        (classifier, {"format": "tflite"}, "format 'tflite': choose one of torch, onnx, torchscript"),
    ):
        with pytest.raises(InputError, match=message):
            export_model(model, path, **options)
    assert not path.exists()


def test_a_file_that_computes_something_else_is_refused(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = formats.run_file
    monkeypatch.setattr(
        formats, "run_file", lambda *args: lambda x: {name: 1.01 * y for name, y in run(*args)(x).items()}
    )
    with pytest.raises(InputError, match=r"computes something else, off by 1\.0e-02"):
        export_model(classifier, tmp_path / "flowers.ts", format="torchscript")
