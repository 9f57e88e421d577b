"""The tables of docs/reliability.md name tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)


def test_every_fault_has_a_row_with_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*$", PAGE, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 45))
    for line in re.findall(r"^\| \d+ \|.*$", PAGE, re.MULTILINE):
        assert "::test_" in line, line


def test_every_test_that_is_named_is_there() -> None:
    assert len(NAMED) > 80
    for file, name in NAMED:
        assert f"\ndef {name}(" in (TESTS / file).read_text(), f"{file}::{name}"
