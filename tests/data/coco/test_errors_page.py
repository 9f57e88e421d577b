"""docs/errors.md is what the table of kinds says."""

from __future__ import annotations

import re
from pathlib import Path

from hiera_det.data.coco.errors_page import errors_page
from hiera_det.data.coco.kinds import KINDS

ROOT = Path(__file__).parents[3]


def test_page_is_as_generated() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == errors_page(), (
        "run: python -m hiera_det.data.coco.errors_page > docs/errors.md"
    )


def test_every_kind_that_code_adds_is_in_the_table_and_every_one_in_the_table_is_added() -> None:
    code = "".join(
        path.read_text() for path in (ROOT / "hiera_det" / "data" / "coco").glob("*.py") if path.stem != "kinds"
    )
    words = set(re.findall(r'f?"([a-z]+(?:-[a-z0-9{}]+)*)"', code))
    words |= {f"annotation-{what}" for what in ("image", "category")}
    assert set(KINDS) <= words, set(KINDS) - words
