"""``report.html``: one file that needs nothing else, from sections of text, tables, figures and pictures.

Everything is escaped but the figures, which are our own SVG; there is no script in it, and its own rule forbids one.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from hiera_det.errors import printable
from hiera_det.extras import need
from hiera_det.files import StrPath, write_atomically

__all__ = ["REPORT", "Bar", "Heat", "Pair", "Picture", "Section", "Table", "check_report_packages", "write_page"]

REPORT = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Bar:
    """A number in a table with a bar of its length behind it; ``share`` from 0 to 1."""

    text: str
    share: float


@dataclass(frozen=True)
class Heat:
    """A count in a table, the more coloured the larger its ``share``; ``good`` in another colour."""

    text: str
    share: float
    good: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of texts, numbers, `Bar` or `Heat`; the first column names the row.

    Attributes:
        head: one text for each column.
        rows: as long as the head each.
        caption: what it says; "" for none.
        is_text: whether all columns are words, and begin at the left.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture within the page, by its address ``data:...``, and what it shows."""

    address: str
    caption: str

    @classmethod
    def of(cls, image: Image.Image, caption: str, quality: int = 82) -> Picture:
        """A picture as JPEG."""
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=quality, optimize=True)
        return cls(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", caption)


@dataclass(frozen=True)
class Pair:
    """Pictures side by side under one title."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A part of the page; what it has of each is shown in this order.

    Attributes:
        title: its heading.
        text: paragraphs.
        figures: SVG.
        tables: see `Table`.
        pairs: see `Pair`.
        raw: a long text as it stands, behind its title, or none.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pairs: Sequence[Pair] = ()
    raw: tuple[str, str] | None = None


def check_report_packages() -> None:
    """Refuse to begin a report where what makes it is missing.

    Raises:
        InputError: in one line, with what to install.
    """
    for package, name in (("jinja2", "jinja2"), ("matplotlib", "matplotlib"), ("PIL", "Pillow")):
        need(package, "the report", name)


def write_page(
    folder: StrPath, title: str, subtitle: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> Path:
    """Write ``report.html`` into a folder, in one step.

    Args:
        folder: of the run.
        title: of the page.
        subtitle: a line below it.
        facts: numbers that are read first, each with its name.
        sections: in their order.

    Raises:
        InputError: a package is missing.
        WriteError: the page cannot be written.
    """
    check_report_packages()
    text = _template().render(title=title, subtitle=subtitle, facts=facts, sections=sections)
    path = Path(folder) / REPORT
    # What is no text in a file's name cannot be in a page either.
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "replace")), durable=False)
    return path


@lru_cache(maxsize=1)
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = lambda value: printable(str(value))
    environment.tests["bar"] = lambda value: isinstance(value, Bar)
    environment.tests["heat"] = lambda value: isinstance(value, Heat)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
