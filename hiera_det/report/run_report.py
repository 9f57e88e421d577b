"""The report of a run that is no detector's, and the sections that all reports have."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hiera_det.engine.environment import environment
from hiera_det.engine.events import METRICS, read_metrics
from hiera_det.engine.record import read_record
from hiera_det.errors import printable
from hiera_det.files import StrPath
from hiera_det.report.curves import curves_of
from hiera_det.report.figures import svg
from hiera_det.report.page import Pair, Picture, Section, Table, check_report_packages, write_page

__all__ = ["curves_section", "picture_sections", "settings_sections", "subtitle", "write_run_report"]

#: Pictures that a training leaves in its folder, and their longest side on the page.
PICTURES, SIDE = {"reconstructions.png": "What the autoencoder makes of images"}, 1200
TASKS = {
    "detect": "a detector",
    "torchvision": "a detector of torchvision's",
    "classify": "a classifier",
    "pretrain": "a masked autoencoder",
}
NEWEST = {"loss": "loss", "total_loss": "loss", "top1": "top-1", "top5": "top-5", "val_loss": "validation loss"}


def write_run_report(folder: StrPath) -> Path:
    """Write the report of a classifier's or a masked autoencoder's run: curves, pictures, settings, environment.

    Raises:
        InputError: a package is missing, or what the run has left is damaged.
    """
    check_report_packages()
    newest = {name: value for line in read_metrics(Path(folder) / METRICS) for name, value in line.items()}
    facts = [(label, f"{newest[name]:.4g}") for name, label in NEWEST.items() if isinstance(newest.get(name), float)]
    if "epoch" in newest:
        facts.insert(0, ("epochs", f"{newest['epoch']:g}"))
    sections = [curves_section(folder), *picture_sections(folder), *settings_sections(folder)]
    return write_page(folder, f"Run {Path(folder).resolve().name}", subtitle(folder), facts, sections)


def subtitle(folder: StrPath) -> str:
    """What was trained, where, and when the page was written."""
    record = read_record(os.fspath(folder))
    what = TASKS.get(record.task if record else "detect", "a model")
    return f"{what} in {os.fspath(folder)}, report of {time.strftime('%Y-%m-%d %H:%M')}"


def curves_section(folder: StrPath) -> Section:
    """Losses, learning rate and what was measured."""
    draws = curves_of(Path(folder) / METRICS)
    return Section(
        "Curves", () if draws else ("There are no metrics yet.",), [svg(draw, (5, 4)) for draw in draws.values()]
    )


def picture_sections(folder: StrPath) -> list[Section]:
    """The pictures that lie in the folder."""
    sections = []
    for name, title in PICTURES.items():
        path = Path(folder) / name
        if path.is_file():
            with Image.open(path) as image:
                image.thumbnail((SIDE, 4 * SIDE))
                picture = Picture.of(image, "original, masked, reconstructed, and both together")
            sections.append(Section(title, pairs=[Pair(name, [picture])]))
    return sections


def settings_sections(folder: StrPath) -> list[Section]:
    """What was asked for, the whole config where there is one, and what it ran on."""
    record = read_record(os.fspath(folder))
    asked = [
        (name, _words(value)) for name, value in (record.asked if record else {}).items() if value not in (None, "")
    ]
    config = Path(folder) / "config.yaml"
    raw = ("the whole config", config.read_text(encoding="utf-8", errors="replace")) if config.is_file() else None
    ran_on = record.environment if record else {}
    told = "" if ran_on else "The run has not noted it; this is what the report was written on."
    return [
        Section("Settings", tables=[Table(("asked for", "value"), asked, is_text=True)] if asked else (), raw=raw),
        Section(
            "Environment",
            [told] if told else (),
            tables=[Table(("what", "version or name"), list((ran_on or environment()).items()), is_text=True)],
        ),
    ]


def _words(value: object) -> str:
    """A setting as a line."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return printable(str(value))
