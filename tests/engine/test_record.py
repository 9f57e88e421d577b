"""run.json may come from another version of the package, or from a stranger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hiera_det.engine.record import check_asked, read_record, write_record
from hiera_det.errors import InputError


def test_it_does_not_say_where_other_machines_are_nor_what_was_asked_of_one_start(tmp_path: Path) -> None:
    asked = {"seed": 1, "dist_url": "tcp://far.example:1", "num_machines": 2, "machine_rank": 1, "resume": True}
    write_record(str(tmp_path), "detect", asked, ())
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["asked"] == {"seed": 1}
    (tmp_path / "run.json").write_text(json.dumps({**content, "asked": asked}))
    record = read_record(str(tmp_path))
    assert record
    assert record.asked == {"seed": 1}


def test_what_is_none_and_another_versions_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"task": "detect", "asked": []}')
    with pytest.raises(InputError, match=r"run\.json: is damaged"):
        read_record(str(tmp_path))
    with pytest.raises(InputError, match=r"run\.json: colour is no setting of this version"):
        check_asked(str(tmp_path), {"seed": 1, "colour": "red"}, ["seed"])
