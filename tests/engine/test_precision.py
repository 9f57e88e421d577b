"""Number formats: refused where the device has none, and told apart where it only emulates one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from hiera_det.engine import precision
from hiera_det.engine.precision import check_precision
from hiera_det.errors import InputError


@pytest.fixture(params=[False, True], ids=["computed", "emulated"])
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    monkeypatch.setattr(precision, "emulates_bfloat16", lambda: request.param)
    precision._warn_of_emulation.cache_clear()
    yield request.param
    precision._warn_of_emulation.cache_clear()


def test_bfloat16_that_is_emulated_is_one_line_and_goes_on(emulated: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hiera_det"):
        for _ in range(2):
            check_precision("bfloat16", "cpu", "--precision")
        check_precision("float32", "cpu")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == emulated
    assert all(line.startswith("--precision bfloat16: this processor only emulates it") for line in lines)


def test_a_cpu_is_not_told_to_take_what_it_emulates(emulated: bool) -> None:
    with pytest.raises(InputError) as refused:
        check_precision("float16", "cpu")
    assert ("bfloat16" in str(refused.value)) != emulated


def test_whether_it_is_emulated_can_be_asked() -> None:
    assert precision.emulates_bfloat16() in (True, False)
