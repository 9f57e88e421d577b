"""Frames of a camera, by OpenCV, which knows the cameras of all systems."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hiera_det.errors import InputError
from hiera_det.extras import need

__all__ = ["camera_number", "read_camera"]

_CAMERA = re.compile(r"webcam:(\d{1,3})")


def camera_number(name: str) -> int | None:
    """The number of the camera that ``webcam:0`` and its like name; None for what names none."""
    found = _CAMERA.fullmatch(name)
    return int(found[1]) if found else None


def read_camera(name: str, every: int = 1) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Read frames without end, as `hiera_det.data.video.read_frames` those of a file.

    Args:
        name: ``webcam:0``, or another number.
        every: take each ``every``-th frame.

    Raises:
        InputError: OpenCV is not installed, or there is no such camera, or it is taken away.
    """
    need("cv2", "a camera", "opencv-python-headless")
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # of what is not there the last line tells
    camera = cv2.VideoCapture(camera_number(name) or 0)
    try:
        number = 0
        while camera.isOpened():
            there, frame = camera.read()
            if not there:
                break
            if number % every == 0:
                yield number, np.ascontiguousarray(frame[:, :, ::-1])  # BGR
            number += 1
    finally:
        camera.release()
    raise InputError(f"{name}: {'gives no more pictures' if number else 'no such camera here'}; give another number")
