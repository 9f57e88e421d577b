"""The JSON of a prediction's objects, beside it the JSON of its images, and the objects as a table."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from hiera_det.files import write_atomically
from hiera_det.predict.rows import area_of

__all__ = ["COLUMNS", "ResultsFile"]

#: Of the table: where, what, how sure, the box from its upper left corner and the area of the mask, else of the box.
COLUMNS = ("file", "frame", "class_id", "class_name", "score", "x", "y", "width", "height", "area")
#: Seconds from one writing of what there is so far to the next, at least.
SAVE_EVERY = 300.0


class ResultsFile:
    """Takes objects as they come and writes them at the end, and now and then before, in the order of the images' ids.

    Until then they are in a temporary file, so that memory does not grow with the number of images. ``found.json`` is
    COCO's list of results; ``found.images.json`` a COCO JSON of all images, with ``objects``, their number, or
    ``error``, why there are none. ``COCO("found.images.json").loadRes("found.json")`` reads both.

    Args:
        path: the list of results, ``found.json``; "" for none.
        categories: ``{"id", "name"}`` of the classes.
        table: a CSV with a row of `COLUMNS` for each object, in pixels; "" for none.
    """

    def __init__(self, path: str, categories: Sequence[dict[str, Any]], table: str = "") -> None:
        self.path, self.table = path, table
        self._categories = list(categories)
        self._spool: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed with the object
        self._places: list[tuple[int, int]] = []  # image id, place in the spool
        self._due = time.monotonic() + SAVE_EVERY

    @staticmethod
    def beside(path: str) -> Path:
        """Where the images' JSON goes."""
        return Path(path).with_suffix(".images.json")

    def add(self, image: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
        """Take an image's entry, with its ``id``, and its objects."""
        place = self._spool.seek(0, os.SEEK_END)  # what was written so far may have been read
        self._places.append((image["id"], place))
        self._spool.write(json.dumps([image, results]) + "\n")

    def save(self) -> None:
        """Write what there is so far, now and then: a process that is killed for its memory says nothing before.

        Raises:
            InputError: see `write`.
        """
        begun = time.monotonic()
        if begun >= self._due:
            self.write()
            now = time.monotonic()
            self._due = now + max(SAVE_EVERY, 20 * (now - begun))

    def write(self) -> None:
        """Write all files, each in one step.

        Raises:
            InputError: one cannot be written.
        """
        if self.table:
            write_atomically(self.table, self._write_table)
        if not self.path:
            return
        results = (result for _, found in self._entries() for result in found)
        write_atomically(self.path, lambda file: _write_list(file, results))
        head = json.dumps({"info": {}, "categories": self._categories, "annotations": []})[:-1] + ', "images": '
        images = (image for image, _ in self._entries())
        write_atomically(self.beside(self.path), lambda file: _write_list(file, images, head, "}"))

    def _write_table(self, file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows(_cells(row) for _, found in self._entries() for row in found)
        text.detach()

    def _entries(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Images and their objects, in the order of the ids."""
        for _, place in sorted(self._places):
            self._spool.seek(place)
            image, results = json.loads(self._spool.readline())
            yield image, results


def _write_list(file: IO[bytes], entries: Iterable[Any], head: str = "", end: str = "") -> None:
    """A JSON list, entry by entry, between two texts."""
    file.write(head.encode() + b"[")
    for number, entry in enumerate(entries):
        file.write(b",\n" * bool(number) + json.dumps(entry).encode())
    file.write(b"]" + end.encode() + b"\n")


def _cells(row: dict[str, Any]) -> list[Any]:
    """A row of the table."""
    numbers = [round(number, 2) for number in (*row["bbox"], area_of(row))]
    what = (row["category_id"], row["category_name"], round(row["score"], 5))
    return [row["file_name"], row.get("frame", ""), *what, *numbers]
