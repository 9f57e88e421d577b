"""What was found, in the forms that people take it on in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from found import prediction
from PIL import Image

from hiera_det.data.camera import camera_number, read_camera
from hiera_det.errors import InputError
from hiera_det.predict.cutouts import folder_names
from hiera_det.predict.rows import area_of
from hiera_det.predict.thresholds import least_score, least_scores, read_thresholds


def test_without_the_package_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^to_supervision\(\) needs supervision: pip install supervision$"):
        prediction().to_supervision()


def test_an_area_is_the_masks_and_else_the_boxs() -> None:
    assert [area_of(row) for row in prediction().coco_results(1)] == [100, 100]
    assert [area_of(row) for row in prediction(masks=False).coco_results(1)] == [200, 300]


@pytest.mark.parametrize(
    ("by_class", "says"),
    [
        ({"fug": 0.5}, "threshold of class 'fug': there is no such class; did you mean 'fig'"),
        ({"zebra": 0.5}, "there is no such class; the detector has .*fig"),
        ({"fig": 5}, "threshold of class 'fig': 5: scores are from 0 to 1"),
        ({"fig": float("nan")}, "threshold of class 'fig': nan: scores are from 0 to 1"),
        ({"fig": "high"}, "threshold of class 'fig': high: scores are from 0 to 1"),
        (["fig"], r"class_thresholds \['fig'\]: give classes and scores"),
    ],
)
def test_a_threshold_of_no_class_or_no_score_is_refused(by_class: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        least_scores(["fig", "date"], least_score(0.5, by_class), by_class)


def test_other_classes_keep_the_threshold_of_all(tmp_path: Path) -> None:
    assert least_scores(["fig", "date"], 0.5, {}) is None
    np.testing.assert_array_equal(least_scores(["fig", "date"], 0.5, {"date": 0.1}), [0.5, 0.1])
    path = tmp_path / "threshold.json"
    path.write_text('{"threshold": 0.6, "f1": 0.5, "by_class": {"fig": 0.25}}')
    assert read_thresholds(str(path)) == {"fig": 0.25}
    path.write_text('{"fig": 0.25, "date": 1}')
    assert read_thresholds(str(path)) == {"fig": 0.25, "date": 1.0}
    for bad in ("[]", "{}", '{"fig": "x"}'):
        path.write_text(bad)
        with pytest.raises(InputError, match=r"threshold\.json: "):
            read_thresholds(str(path))


def test_folders_of_classes_can_be_made_on_every_system() -> None:
    names = ["fig", "Fig", "a/b", "..", "", "con", "Vogel (groß)", "鳥", "x" * 300, "a:b", "trailing. "]
    found = folder_names(names)
    assert len({name.lower() for name in found}) == len(names)
    assert (found[0], found[2], found[6], found[7]) == ("fig", "a_b", "Vogel (groß)", "鳥")
    assert all(name and not set(name) & set('/\\:*?"<>|') and name.strip(" .") == name for name in found)
    assert max(map(len, found)) < 100
    assert "con" not in found


def test_a_camera_that_is_not_there_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert (camera_number("webcam:0"), camera_number("webcam:x"), camera_number("a.jpg")) == (0, None, None)
    with pytest.raises(InputError, match="webcam:99: no such camera here"):
        next(read_camera("webcam:99"))
    assert capfd.readouterr().err == ""


def test_the_picture_has_the_objects_of_the_prediction() -> None:
    drawn = prediction().draw()
    assert drawn.size == (40, 40)
    assert isinstance(drawn, Image.Image)
    assert np.asarray(drawn).any()
