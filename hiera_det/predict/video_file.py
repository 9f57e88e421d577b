"""A video of pictures that come one after the other."""

from __future__ import annotations

import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from hiera_det.extras import need
from hiera_det.files import write_atomically

__all__ = ["VideoFile"]

#: Of the moments of pictures: in it 24, 25, 30, 50, 60 and 30000/1001 pictures a second are whole numbers.
TICKS = 30000


class VideoFile:
    """Takes pictures and writes them as an MP4 at the end, in one step.

    Args:
        place: of the file.

    Raises:
        InputError: PyAV is not installed.
    """

    def __init__(self, place: Path) -> None:
        need("av", "writing videos")
        import av

        self.place = place
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115  closed with the object
        self._container: Any = av.open(self._spool, "w", format="mp4")
        self._stream: Any = None
        self._last = -1

    def add(self, picture: Image.Image, second: float) -> None:
        """Take a picture that is shown from a moment on, in seconds; later ones are made as large as the first."""
        import av

        stream = self._stream or self._begin(picture)
        if picture.size != self._size:
            picture = picture.resize(self._size)
        # Both sides must be even: at an odd one a line of black is added.
        frame = av.VideoFrame.from_image(picture.crop((0, 0, stream.width, stream.height)))
        self._last = frame.pts = max(self._last + 1, round(second * TICKS))
        frame.time_base = Fraction(1, TICKS)
        self._container.mux(stream.encode(frame))

    def _begin(self, first: Image.Image) -> Any:
        import av

        self._size = first.size
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = stream = self._container.add_stream(codec, rate=30)
        stream.width, stream.height = ((side + 1) // 2 * 2 for side in first.size)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, TICKS)
        if codec == "mpeg4":
            stream.codec_context.qmax, stream.bit_rate = 8, 8_000_000
        return stream

    def write(self) -> None:
        """Write what there is; nothing where no picture has come.

        Raises:
            WriteError: it cannot be written.
        """
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        if self._stream is not None:
            self._spool.seek(0)
            write_atomically(self.place, lambda file: shutil.copyfileobj(self._spool, file), durable=False)
        self._spool.close()
