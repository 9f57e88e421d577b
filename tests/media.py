"""Small images and videos for tests, written anew by each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


def write_class_folders(root: Path, count: int, classes: Mapping[str, tuple[int, int, int]] = COLOURS) -> Path:
    """``root/<class>/<number>.jpg``: noisy images of a colour per class, 80 wide and 70 high."""
    rng = np.random.default_rng(count)
    for name, colour in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (70, 80, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.jpg")
    return root


def grey_frame(number: int) -> npt.NDArray[np.uint8]:
    """A frame whose number can be read from its brightness, 2 per frame."""
    return np.full((48, 64, 3), 2 * number, dtype=np.uint8)


def write_video(
    path: Path, count: int, frame: Callable[[int], npt.NDArray[np.uint8]] = grey_frame, fps: int = 30
) -> Path:
    """A video of ``count`` frames, nearly without loss."""
    import av  # machines that need no video may lack it

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frame(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 8_000_000
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        container.mux(stream.encode())
    return path
