"""A detector's report: of a made evaluation, and of a training that writes it by itself."""

from __future__ import annotations

import html.parser
import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

import hiera_det.extras
from hiera_det import open_run
from hiera_det.cli import predict
from hiera_det.cli import report as command
from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.model.across_classes import as_tested
from hiera_det.d2.predict.predictor import Predictor
from hiera_det.d2.train.run import train_by_yaml
from hiera_det.data.shapes import write_shapes_dataset
from hiera_det.errors import InputError
from hiera_det.report import detection
from hiera_det.report.threshold import read_threshold

#: Other people's words: a tag, an entity, a formula, another script.
NAMES = ["<script>alert('a')</script>", "a & b $x_1$", "köpek 狗"]
FILE = "<img src=x onerror=alert(1)>.png"


class Page(html.parser.HTMLParser):
    """What a page consists of."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.stack: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in ("meta", "link", "img", "br"):
            self.stack.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in self.stack[-1:]:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a detector's run leaves, made by hand: six images, one of whose names is a tag; polygons, and no weights."""
    root, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    images, annotations, results = [], [], []
    for index in range(6):
        name = FILE if index == 0 else f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(root / name)
        images.append({"id": 10 + index, "file_name": name, "width": 120, "height": 90})
        for place in range(3):
            x, y, side = 5 + 35 * place, 10 + 5 * index, 25 + place
            polygon = [[x, y, x + side, y, x + side, y + side, x, y + side]]
            category = int(rng.integers(3))
            one: dict[str, Any] = {"image_id": 10 + index, "category_id": category + 1, "bbox": [x, y, side, side]}
            more = {"id": len(annotations) + 1, "area": side * side, "iscrowd": 0, "segmentation": polygon}
            annotations.append(one | more)
            rle = coco_mask.frPyObjects(polygon, 90, 120)[0]
            mask = {"size": rle["size"], "counts": rle["counts"].decode()}
            found = one | {"score": float(rng.uniform(0.5, 1)), "segmentation": mask}
            results += [found | {"category_id": category % 3 + 1 if place or index > 1 else (category + 1) % 3 + 1}]
            results += [found | {"bbox": [x, y + 40, side, side], "score": 0.2}]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)]
    data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (root / "val.json").write_text(json.dumps(data))
    out = root / "run <b>"
    (out / "inference").mkdir(parents=True)
    (out / "inference" / "coco_instances_results.json").write_text(json.dumps(results))
    asked = {"val_json": str(root / "val.json"), "val_images": str(root), "opts": ["X", "</pre>"]}
    (out / "run.json").write_text(json.dumps({"task": "detect", "asked": asked}))
    (out / "config.yaml").write_text("A: '</pre><script>'\n")
    lines = [{"iteration": n, "total_loss": 1 / n, "loss_<i>": 0.5 / n, "lr": 0.1, "bbox/AP": n} for n in range(1, 9)]
    (out / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def test_a_report_has_all_its_parts_and_nobody_s_names_are_markup(run: Path) -> None:
    path = open_run(run).report()
    assert path == run / "report.html"
    page = Page(path)
    assert not page.stack
    assert page.tags["script"] == 0
    assert page.tags["b"] == 7  # the facts' own, and none of the folder's name
    assert page.tags["svg"] == 7  # losses, AP, two curves of boxes and of masks, F1
    assert page.tags["img"] == 2 * 6
    for words in (*NAMES, FILE, "run <b>", "</pre>", "loss_<i>", "Most often mixed up", "(missed)", "overlap 0.75"):
        assert words in page.words
    assert all(re.match(r"#|data:image/jpeg;base64,|data:,", reference) for reference in page.references)
    assert len(set(page.ids)) == len(page.ids)
    assert {name[1:] for name in page.references if name.startswith("#")} <= set(page.ids)
    assert path.stat().st_size < 6e6
    assert [file.name for file in run.glob(".*")] == []  # nothing half-written


def test_the_threshold_is_left_for_predictions(run: Path, tmp_path: Path) -> None:
    open_run(run).report()
    threshold = read_threshold(run)
    assert 0.5 < threshold.score < 1
    assert "of the best F1, 0.89" in threshold.reason
    by_class = json.loads((run / "threshold.json").read_text())["by_class"]
    assert set(by_class) == set(NAMES)
    for damage in ("{", "[]", '{"threshold": 7, "f1": 1}', '{"threshold": "x", "f1": 1}'):
        (tmp_path / "threshold.json").write_text(damage)
        assert read_threshold(tmp_path).score == 0.5


def test_the_command_prints_where_it_is(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["hiera-det report", "--run", str(run)])
    command.main()
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"


def test_images_that_are_gone_cost_a_line(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = run.parent / "3.png"
    kept = image.read_bytes()
    image.unlink()
    try:
        with caplog.at_level(logging.WARNING, logger="hiera_det.report"):
            page = Page(open_run(run).report())
    finally:
        image.write_bytes(kept)
    assert any("3.png" in line and "not shown in the report" in line for line in caplog.messages)
    assert page.tags["img"] == 2 * 5


def test_what_is_missing_is_said_in_a_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = run.parent / "val.json"
    moved = truth.rename(truth.with_suffix(".moved"))
    try:
        with pytest.raises(InputError, match=r"annotations that were evaluated on are not there \(.*val\.json\)"):
            open_run(run).report()
    finally:
        moved.rename(truth)
    monkeypatch.setattr(hiera_det.extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="the report needs jinja2: pip install jinja2"):
        open_run(run).report()


def test_of_an_evaluation_that_found_nothing_there_is_a_report_too(run: Path) -> None:
    path = run / "inference" / "coco_instances_results.json"
    kept = path.read_bytes()
    path.write_text("[]")
    try:
        page = Page(open_run(run).report())
    finally:
        path.write_bytes(kept)
    assert "objects that nothing was found of18" in page.words.replace("\n", "")
    assert read_threshold(run).score == 0.5


def test_images_that_were_left_out_are_not_counted_as_missed(run: Path) -> None:
    stored = {"json": str(run.parent / "val.json"), "images": str(run.parent), "image_ids": [11, 12], "tasks": None}
    details = run / "inference" / "evaluation.json"
    details.write_text(json.dumps(stored))
    results = run / "inference" / "coco_instances_results.json"
    kept = results.read_text()
    results.write_text(json.dumps([one for one in json.loads(kept) if one["image_id"] in (11, 12)]))
    try:
        page = Page(open_run(run).report())
    finally:
        details.unlink()
        results.write_text(kept)
    assert page.tags["img"] == 2 * 2
    words = " ".join(page.words.split())
    assert "2images evaluated6objects in them" in words
    assert "1.png" in words
    assert "5.png" not in words


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, training_arguments: Callable[..., RunRequest]
) -> tuple[Path, list[str]]:
    """The folder and the log of a training that evaluates twice, and whose first report fails."""
    out, data = tmp_path_factory.mktemp("out"), write_shapes_dataset(tmp_path_factory.mktemp("shapes"), train=4, val=3)
    opts = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()", "TEST.EVAL_PERIOD", "2", "TEST.REPORT", "True"]
    opts += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.PICTURES", "2", "TEST.NMS_ACROSS_CLASSES", "True"]
    write, calls = detection.write_detector_report, []

    def fail_once(folder: str) -> Path:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyError("no luck")
        return write(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "write_detector_report", fail_once)
        train_by_yaml(training_arguments(out, data, *opts), True)
    return out, (out / "log.txt").read_text().splitlines()


def test_a_training_writes_it_after_each_evaluation_and_does_not_end_for_it(trained: tuple[Path, list[str]]) -> None:
    out, log = trained
    told = [re.sub(r".*? (INFO|WARNING): ", "", line) for line in log if "hiera_det.report" in line]
    assert told == ["the report could not be written: 'no luck'", f"report: {out / 'report.html'}"]
    page = Page(out / "report.html")
    for words in ("box AP", "mask AP", "training", "evaluation", "star", "torch", "MAX_ITER", "total_loss"):
        assert words in page.words
    assert page.tags["svg"] == 7
    data = json.loads((out / "inference" / "evaluation.json").read_text())
    assert data["tasks"].keys() == {"bbox", "segm"}
    assert Path(data["json"]).is_file()


def test_pictures_and_predictions_take_its_threshold(
    trained: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    out, _ = trained
    (out / "threshold.json").write_text('{"threshold": 0.5, "f1": 0.5}')
    (out / "threshold_best.json").write_text('{"threshold": 0.625, "f1": 0.75}')  # of model_best.pth
    words = ["--run", str(out), "--input", "a.jpg", "--json", "b.json"]
    with caplog.at_level(logging.INFO, logger="hiera_det.predict"):
        assert predict.choose_threshold(predict.argument_parser().parse_args(words)) == 0.625
    assert caplog.messages == ["least score 0.625: of the best F1, 0.75, at their evaluation"]
    given = [*words, "--confidence-threshold", "0.25"]
    assert predict.choose_threshold(predict.argument_parser().parse_args(given)) == 0.25
    predictor = Predictor.from_folder(out)
    assert predictor.cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.625
    assert open_run(out).weights.predictor().cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.625
    assert open_run(out).last.predictor().cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.5


def test_one_object_has_one_class_where_that_is_asked_for() -> None:
    found = Instances((50, 50))
    found.pred_boxes = Boxes(torch.tensor([[0.0, 0, 20, 20], [1, 1, 20, 20], [30, 30, 40, 40], [12, 12, 30, 30]]))
    found.scores, found.pred_classes = torch.tensor([0.6, 0.9, 0.5, 0.4]), torch.tensor([0, 1, 0, 1])

    class Detector(nn.Module):
        def forward(self, inputs: Any) -> Any:
            return [{"instances": found} for _ in inputs]

    cfg = load_config("mask_rcnn_hiera_t_1x", {})
    detector = Detector()
    assert as_tested(cfg, detector) is detector
    cfg.TEST.NMS_ACROSS_CLASSES = True
    (output,) = as_tested(cfg, detector)([{}])
    assert output["instances"].pred_classes.tolist() == [1, 0, 1]
    assert output["instances"].scores.tolist() == pytest.approx([0.9, 0.5, 0.4])
