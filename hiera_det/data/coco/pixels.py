"""Decoding each image once, so that a file that was cut off is found before a training and not in it.

What was found is kept in this user's cache, by a file's size and time of change: a second look at 118,000 images takes
as long as asking the disk for these.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hiera_det.data.coco.findings import Findings
from hiera_det.data.coco.write import private_folder
from hiera_det.data.images import BadImageError, read_image
from hiera_det.errors import printable
from hiera_det.files import write_atomically

__all__ = ["Progress", "check_pixels"]

#: Told how many of how many images are done.
Progress = Callable[[int, int], object]

#: Results of so many images are written at once, so that a check that is stopped goes on where it was.
BATCH = 1000


def check_pixels(
    images: Sequence[Mapping[str, Any]], root: str, findings: Findings, max_pixels: int, progress: Progress | None
) -> None:
    """Decode image files, in as many threads as there are cores, and tell which cannot be.

    Args:
        images: checked entries whose files are there.
        root: the image folder.
        findings: is added to.
        max_pixels: largest image, see `hiera_det.data.images`.
        progress: is called after every so many images.
    """
    cache = _Cache(root, max_pixels)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            for image, fault in zip(batch, pool.map(cache.fault, [i["file_name"] for i in batch]), strict=True):
                if fault:
                    path = os.path.join(root, image["file_name"])
                    findings.add("image-damaged", fault, file=path, image_id=image["id"])
            cache.write()
            if progress:  # after writing: what was told as done is kept
                progress(start + len(batch), len(images))


class _Cache:
    """What was found in the files of a folder: ``{file name: [bytes, time of change, fault or ""]}``."""

    def __init__(self, root: str, max_pixels: int) -> None:
        self._root, self._max_pixels = root, max_pixels
        name = hashlib.sha256(f"{os.path.realpath(root)}\n{max_pixels}".encode(errors="surrogateescape")).hexdigest()
        self._path = private_folder("pixels") / f"{name}.json"
        self._is_new = False
        try:
            known = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            known = {}
        self._known: dict[str, Any] = known if isinstance(known, dict) else {}

    def fault(self, name: str) -> str:
        """Why an image cannot be decoded; "" if it can."""
        path = os.path.join(self._root, name)
        try:
            status = os.stat(path)
            stamp = [status.st_size, status.st_mtime_ns]
            known = self._known.get(name)
            if isinstance(known, list) and known[:2] == stamp and len(known) == 3:
                return str(known[2])
            read_image(path, max_pixels=self._max_pixels)
            fault = ""
        except BadImageError as error:
            fault = str(error).removeprefix(f"{printable(path)}: ")
        except OSError as error:
            return f"cannot be read ({error.strerror})"  # not kept: it may be there the next time
        self._known[name] = [*stamp, fault]
        self._is_new = True
        return fault

    def write(self) -> None:
        """Keep what was found since the last time."""
        if self._is_new:
            content = json.dumps(self._known).encode()
            write_atomically(self._path, lambda file: file.write(content), durable=False)
            self._is_new = False
