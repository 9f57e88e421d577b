"""What a prediction has found so far is there, should its process be killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hiera_det.predict import results_file
from hiera_det.predict.results_file import ResultsFile


def test_what_was_found_so_far_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "found.json"
    quiet = ResultsFile(str(path), [])
    quiet.save()
    assert not path.exists()
    monkeypatch.setattr(results_file, "SAVE_EVERY", 0.0)
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    results = ResultsFile(str(path), [])
    for number in (3, 1, 2):
        results.add({"id": number}, [{"image_id": number}])
        results.save()
        assert len(json.loads(path.read_text())) == len(results._places)
    assert [entry["image_id"] for entry in json.loads(path.read_text())] == [1, 2, 3]
