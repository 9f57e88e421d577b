"""Training torchvision's detectors on a COCO JSON through the engine, as a user without detectron2 does."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detections import write_boxes
from PIL import Image
from test_exactness import assert_same_runs, assert_stopped
from torch import Tensor, nn
from trainings import in_step, run, run_two

from hiera_det import evaluate, open_run, train_torchvision
from hiera_det.adapters.torchvision import load_detector
from hiera_det.adapters.torchvision.data import DetectionReader, collate_detection
from hiera_det.adapters.torchvision.evaluation import Evaluation
from hiera_det.adapters.torchvision.settings import DETECTORS, DetectorSettings
from hiera_det.adapters.torchvision.train import train
from hiera_det.cli import main as command
from hiera_det.cli import predict
from hiera_det.data.bad_images import BadImages
from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.records import CocoRecords
from hiera_det.engine.loader import Seeded
from hiera_det.engine.stop import Stop
from hiera_det.errors import InputError
from hiera_det.tasks.batches import eval_loader
from hiera_det.weights.sources import read_weight_file

OPTIONS = {"backbone": {"out_channels": 32}, "rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 20}
OPTIONS |= {"box_batch_size_per_image": 16}
TINY = ["--size", "tiny", "--embed-dim", "16", "--depths", *"1111", "--image-size", "64", "--device", "cpu"]
TINY += ["--options", json.dumps(OPTIONS), "--epochs", "2", "--batch-size", "4", "--accumulate", "2", "--lr", "1e-3"]
TINY += [
    "--drop-path",
    "0.2",
    "--ema-decay",
    "0.9",
    "--clip-norm",
    "1",
    "--workers",
    "1",
    "--best",
    "bbox/AP",
    "--patience",
    "3",
]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_boxes(tmp_path_factory.mktemp("data"))


def without_detectron2() -> None:
    """In a process that is to be one without it."""
    for name in ["detectron2", *sys.modules]:
        if name.split(".")[0] == "detectron2" or name.startswith("hiera_det.d2"):
            sys.modules[name] = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def straight(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves that nothing has stopped: 4 steps in 2 epochs."""
    out = tmp_path_factory.mktemp("straight") / "out"
    done = run("torchvision", [*flags, *TINY, "--output", out], out.parent / "said.txt", without_detectron2)
    assert done.status == 0, done.stderr
    said = done.stderr.splitlines()
    assert any(line.startswith("model       torchvision's maskrcnn on Hiera tiny, ") for line in said)
    assert sum(line.startswith(("epoch 1/2  box AP ", "epoch 2/2  box AP ")) for line in said) == 2
    assert said[-1] == f"next    hiera-det evaluate --run {out} --val-json JSON --val-images DIR"
    log = (out / "log.txt").read_text()
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = " in log
    return out


def test_a_training_without_detectron2_leaves_ap_a_report_and_its_classes(straight: Path) -> None:
    opened = open_run(straight)
    assert opened.task == "torchvision"
    judged = [line for line in opened.history if "bbox/AP" in line]
    parts = ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")
    assert all(
        line[f"{of}val_loss"] == pytest.approx(sum(line[f"{of}val_loss_{part}"] for part in parts))
        for line in judged
        for of in ("", "ema/")
    )
    assert [line["iteration"] for line in judged] == [2, 4]
    assert all(
        0 <= line[f"{of}{task}/AP50"] <= 100 for line in judged for of in ("", "ema/") for task in ("bbox", "segm")
    )
    results = json.loads((straight / "inference" / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in results} == {1}
    assert (straight / "inference_ema" / "evaluation.json").is_file()
    page = (straight / "report.html").read_text()
    assert all(
        part in page for part in ("AP by class and size", "Worst images", "a detector of torchvision", "mask AP")
    )
    saved = read_weight_file(str(straight / "model_final.pth"))
    assert saved["classes"] == ["box"]
    assert saved["config"]["category_ids"] == [1]
    assert (straight / "model_final_ema.pth").is_file()
    assert opened.best.path.name == "model_best.pth"


def test_stopped_by_a_signal_and_resumed_it_is_the_same_to_the_bit(
    flags: list[str], straight: Path, tmp_path: Path
) -> None:
    words = [*flags, *TINY, "--output", tmp_path / "out"]
    assert_stopped(run("torchvision", words, tmp_path / "first.txt", in_step(3)), 143, 3)
    done = run("torchvision", [*words, "--resume"], tmp_path / "second.txt")
    assert done.status == 0, done.stderr
    assert "resuming at iteration 3 from " in done.stderr
    assert_same_runs(tmp_path / "out", straight)


def test_two_processes_find_what_one_finds(flags: list[str], tmp_path: Path) -> None:
    words = [*flags, *TINY, "--epochs", "1", "--accumulate", "1", "--output", tmp_path / "out"]
    done = run_two("torchvision", words, tmp_path / "said")
    assert [one.status for one in done] == [0, 0], done
    results = json.loads((tmp_path / "out" / "inference" / "coco_instances_results.json").read_text())
    images = [result["image_id"] for result in results]
    assert images == sorted(images)
    assert json.loads((tmp_path / "out" / "inference" / "evaluation.json").read_text())["image_ids"] is None


def test_a_loss_that_is_not_finite_ends_the_run_in_a_line(flags: list[str], tmp_path: Path) -> None:
    done = run("torchvision", [*flags, *TINY, "--output", tmp_path / "out", "--lr", "1e30"], tmp_path / "said.txt")
    assert done.status == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: iteration ")
    assert "not finite" in last
    assert ".png" in last


def test_a_changed_setting_is_refused(flags: list[str], straight: Path, tmp_path: Path) -> None:
    words = [*flags, *TINY, "--output", straight, "--resume", "--max-size", "90"]
    done = run("torchvision", words, tmp_path / "said.txt")
    assert done.status == 2
    assert done.stderr.splitlines()[-1].endswith("resume with the same, or give --allow-changed max-size")


def settings(flags: list[str], output: Path, **more: Any) -> DetectorSettings:
    data = {flag[2:].replace("-", "_"): value for flag, value in zip(flags[::2], flags[1::2], strict=True)}
    model = {"size": "tiny", "embed_dim": 16, "depths": (1, 1, 1, 1), "image_size": 64, "workers": 0, "device": "cpu"}
    return DetectorSettings(**{**data, **model, "output": str(output), **more})


@pytest.mark.parametrize("detector", DETECTORS[1:])
def test_the_other_detectors_train_and_come_back(detector: str, flags: list[str], tmp_path: Path) -> None:
    small = {"backbone": {"out_channels": 32}}
    chosen = settings(flags[:4], tmp_path / "out", detector=detector, epochs=1, batch_size=5, options=small)
    assert train(chosen) == 0
    found = load_detector(tmp_path / "out" / "model_final.pth")
    assert (found.classes, found.category_ids) == (("background", "box"), (1,))
    with torch.inference_mode():
        outputs = found.model([torch.rand(3, 64, 96), torch.rand(3, 64, 80)])
    assert [output.keys() for output in outputs] == [{"boxes", "labels", "scores"}] * 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"detector": "detr"}, "detector detr: choose one of maskrcnn, fasterrcnn"),
        ({"max_size": 32}, "max_size 32: is below image_size 64; raise it"),
        ({"best": "top1"}, "best top1: choose one of auto, bbox/AP,"),
        ({"best": "segm/AP", "detector": "fcos"}, "best segm/AP: choose one of auto, bbox/AP,"),
        ({"best": "bbox/AP", "val_json": ""}, "best bbox/AP: nothing is measured: give val_json"),
        ({"val_images": ""}, "--val-json .* needs --val-images"),
        ({"batch_size": 11}, "batch_size 11: there are 10 files; lower it"),
        ({"options": {"colour": 1}}, "options colour: no argument of MaskRCNN; there are backbone, bbox_reg_weights"),
        ({"options": {"backbone": {"levels": 3}}}, "options {'backbone': {'levels': 3}}: .*; give other values"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    more: Mapping[str, Any], said: str, flags: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        train(settings(flags, tmp_path / "out", **more))
    assert "\n" not in str(refused.value)


def test_annotations_without_masks_are_for_detectors_without(tmp_path: Path) -> None:
    flags = write_boxes(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="have no segmentation, but detector is maskrcnn; give detector fasterrcnn"):
        train(settings(flags, tmp_path / "out"))


def test_from_python_it_trains_goes_on_and_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_boxes(tmp_path)
    data, small = (tmp_path / "train.json", tmp_path), {"embed_dim": 16, "depths": (1, 1, 1, 1), "patience": 0}
    words = {"output": tmp_path / "out", "size": "tiny", "image_size": 64, "num_workers": 0, "device": "cpu"}
    options = OPTIONS | {"box_score_thresh": 0.0}
    asked = {**words, "options": options, "batch_size": 5, "learning_rate": 1e-3, "settings": small}
    run = train_torchvision(train=data, val=(tmp_path / "val.json", tmp_path), epochs=1, **asked)
    assert run.task == "torchvision"
    assert run.metrics["iteration"] == 2
    run.resume(epochs=2)
    assert run.metrics["iteration"] == 4
    measured = evaluate(run.last, num_workers=0, device="cpu")
    assert measured["bbox/AP"] == pytest.approx(run.metrics["bbox/AP"])
    assert measured["segm/AP50"] == pytest.approx(run.metrics["segm/AP50"])
    found = run.last.predict(tmp_path / "0.png", threshold=0.0, device="cpu")
    assert len(found) > 0
    assert set(found.names) == {"box"}
    assert found.masks.shape == (len(found), *found.image.shape[:2])
    with pytest.raises(InputError, match=r"train .*: give two paths, train=\(COCO JSON, folder of its images\)"):
        train_torchvision(train=tmp_path, output=tmp_path / "other")


def test_predict_draws_and_lists_what_a_run_finds(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_boxes(tmp_path)
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    words = ["hiera-det predict", "--run", straight, "--input", tmp_path / "0.png", tmp_path / "broken.png"]
    words += ["--output", tmp_path / "drawn", "--json", tmp_path / "found.json", "--csv", tmp_path / "found.csv"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--confidence-threshold", "0"])
    with pytest.raises(SystemExit, match="1 of 2 files could not be read"):
        predict.main()
    assert Image.open(tmp_path / "drawn" / "0.jpg").size == Image.open(tmp_path / "0.png").size
    rows = json.loads((tmp_path / "found.json").read_text())
    with open(tmp_path / "found.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(rows) == len(table) > 0
    assert {(row["category_id"], row["category_name"]) for row in rows} == {(1, "box")}
    assert [float(row["score"]) for row in table] == pytest.approx([row["score"] for row in rows], abs=1e-5)
    assert all("segmentation" in row for row in rows)
    assert "1 images, " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--overwrite", "--class-threshold", "bux", "0.5"])
    with pytest.raises(InputError, match="threshold of class 'bux': there is no such class; did you mean 'box'"):
        predict.main()
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--overwrite", "--opts", "TEST.AUTOCAST", "bfloat16"])
    with pytest.raises(InputError, match=r"--opts TEST\.AUTOCAST: is for detectron2's detectors"):
        predict.main()


@pytest.mark.parametrize("content", [{"model_state": {}}, {"config": {"detector": "fcos"}, "model_state": {}}])
def test_other_files_are_no_detector(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError, match=r"holds no detector of torchvision's|is damaged"):
        load_detector(tmp_path / "file.pth")


def test_targets_leave_out_crowds_and_what_lies_outside(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    rle = {"size": [40, 60], "counts": [0, 40 * 30, 40 * 30]}  # the left half, column by column
    boxes = [([10, 5, 20, 10], 0, [[10, 5, 30, 5, 30, 15, 10, 15]]), ([0, 0, 30, 40], 0, rle), ([0, 0, 9, 9], 1, rle)]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 4, "bbox": box, "area": 200, "iscrowd": crowd, "segmentation": mask}
        for i, (box, crowd, mask) in enumerate(boxes, 1)
    ]
    image = {"id": 1, "file_name": "a.png", "width": 60, "height": 40}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 4, "name": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    record = CocoRecords(str(tmp_path / "a.json"), str(tmp_path))[0]
    reader = DetectionReader(train=True, masks=True)
    seen = set()
    for _ in range(20):
        target = reader(record).target  # type: ignore[union-attr]
        assert target["labels"].tolist() == [1, 1]
        assert target["masks"].flatten(1).sum(1).tolist() == [200, 1200]
        for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            rows, columns = (places.tolist() for places in mask.nonzero(as_tuple=True))
            assert [min(columns), min(rows), max(columns) + 1, max(rows) + 1] == box
        seen.add(tuple(target["boxes"][0].tolist()))
    assert seen == {(10, 5, 30, 15), (30, 5, 50, 15)}  # as it is, and flipped


def test_an_image_that_cannot_be_read_has_a_stand_in_in_training_and_none_in_evaluation(tmp_path: Path) -> None:
    write_boxes(tmp_path)
    records: Any = CocoRecords(str(tmp_path / "train.json"), str(tmp_path))
    (tmp_path / "3.png").write_bytes(b"no image")
    skip = BadImages("skip", "--on-bad-image")
    sample = Seeded(records, DetectionReader(True, True, bad_images=skip))[3, 0]
    assert not sample.file.endswith("3.png")
    assert collate_detection([DetectionReader(False, True, bad_images=skip)(records[3])]) is None
    refused = collate_detection([Seeded(records, DetectionReader(True, True))[3, 0]])
    assert "3.png" in refused.message  # type: ignore[union-attr]


class Perfect(nn.Module):
    """Finds what a JSON says, by the classes of another one."""

    def __init__(self, records: Any, labels: list[int]) -> None:
        super().__init__()
        self.records, self.labels, self.at = records, labels, 0

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        record = self.records[self.at]
        self.at += 1
        ((x, y, w, h),) = [one["bbox"] for one in record["annotations"]]
        mask = torch.zeros(1, 1, *images[0].shape[1:])
        mask[0, 0, int(y) : int(y + h), int(x) : int(x + w)] = 1
        label = torch.tensor([self.labels[record["annotations"][0]["category_id"]]])
        box = torch.tensor([[x, y, x + w, y + h]])
        return [{"boxes": box, "labels": label, "scores": torch.tensor([0.9]), "masks": mask}]


def test_classes_go_by_name_and_a_perfect_answer_is_perfect(tmp_path: Path) -> None:
    write_boxes(tmp_path)
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"] = [{"id": 7, "name": "pear"}, {"id": 9, "name": "apple"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 7 + 2 * (annotation["id"] % 2)
    (tmp_path / "val.json").write_text(json.dumps(content))
    summary = check_coco_json(tmp_path / "val.json", tmp_path)
    records: Any = CocoRecords(summary.path, summary.image_root)
    # The detector's first class is apple, which is the data's second.
    evaluation = Evaluation(
        model=Perfect(records, [2, 1]),
        loader=eval_loader(Seeded(records, DetectionReader(False, True)), 1, 0, False, collate_detection),
        json=summary.path,
        images=summary.image_root,
        category_ids=[9, 7],
        tasks=("bbox", "segm"),
        folder=tmp_path / "inference",
        device=torch.device("cpu"),
        stop=Stop(),
    )
    metrics = evaluation(1)
    names = ("bbox/AP", "segm/AP", "bbox/AP-pear", "bbox/AP-apple", "segm/AP75")
    assert [metrics[name] for name in names] == pytest.approx([100] * 5)
    assert math.isnan(metrics["bbox/APl"])


def test_the_command_takes_the_framework_and_its_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["--framework", "torchvision"], "the following arguments are required: --output"),
        (["--framework", "mmdet"], "invalid choice: 'mmdet'"),
        (["--framework", "torchvision", "--options", "[1]"], "give an object of JSON"),
    ):
        monkeypatch.setattr(sys, "argv", ["hiera-det", "train", *words])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
