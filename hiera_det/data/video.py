"""Clips of video files, sampled as for Kinetics (Ryali et al. 2023, section 4; facebookresearch/SlowFast's loader).

Letters: V views, T frames of a clip, H and W pixels.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.data.limits import MAX_PIXELS
from hiera_det.errors import InputError
from hiera_det.extras import need

__all__ = [
    "VIDEO_SUFFIXES",
    "clip_frames",
    "even_places",
    "frame_rate",
    "normalise_clip",
    "read_clip",
    "read_clips",
    "read_frames",
    "read_views",
]

logger = logging.getLogger("hiera_det.datasets")

#: Endings of the files that a folder is searched for.
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
#: FFmpeg's readers that are tried: none that a file could send to other files or addresses, as a playlist does.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg"
#: Frames a second that a stride counts in: those of other rates are passed over or repeated likewise in time.
STRIDE_FPS = 30.0
#: Mean and standard deviation of all three colours that the published video models were trained with.
MEAN, STD = 0.45, 0.225


def even_places(clips: int) -> list[float]:
    """Places of clips that lie evenly over a video, from 0, its start, to 1, its end; a single one in the middle."""
    return [0.5] if clips == 1 else [clip / (clips - 1) for clip in range(clips)]


def clip_frames(
    path: str, count: int, fps: float, frames: int, stride: float, places: Sequence[float]
) -> list[list[int]]:
    """Numbers of the frames of clips.

    A video that has the frames but not the time is covered once, with a smaller stride, which is logged.

    Args:
        path: the file, for messages.
        count: frames that it has.
        fps: its frames a second; 0 where the file does not say, and 30 is taken.
        frames: T.
        stride: from one of them to the next, in frames of 30 a second.
        places: where the clips lie, from 0, the start of the video, to 1, its end.

    Returns:
        T numbers for each clip.

    Raises:
        InputError: the video has fewer than T frames.
    """
    if count < frames:
        raise InputError(f"{path}: has {count} frames, and a clip needs {frames}; give a longer video")
    step = stride * (fps or STRIDE_FPS) / STRIDE_FPS
    if (frames - 1) * step > count - 1:
        logger.warning("%s: %d frames are too few for a stride of %.3g; taken %.3g", path, count, step, count / frames)
        step = count / frames
    room = max(0.0, count - frames * step)
    return [[min(count - 1, math.floor(room * place + i * step)) for i in range(frames)] for place in places]


def read_clip(path: str, frames: int = 16, stride: float = 4, place: float = 0.5) -> Tensor:
    """Read one clip.

    Args:
        path: a video file.
        frames: T.
        stride: see `clip_frames`.
        place: where it lies, see there.

    Returns:
        ``[3, T, H, W]``, bytes.

    Raises:
        InputError: no video, damaged, or shorter than T frames; or PyAV is not installed.
    """
    return _read(path, frames, stride, [place])[0]


def read_clips(path: str, frames: int, stride: float, places: Sequence[float]) -> list[Tensor]:
    """Several clips of a video, which is decoded once; arguments and errors as of `read_clip`."""
    return _read(path, frames, stride, places)


def read_frames(path: str, every: int = 1) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Read frames one after the other, as a detector takes them.

    Args:
        path: a video file.
        every: take each ``every``-th frame, the first among them.

    Returns:
        the number of each frame taken, from 0, and its pixels ``[H, W, 3]``, RGB.

    Raises:
        InputError: no video, or damaged; or PyAV is not installed.
    """
    need("av", "reading videos")
    with _open(path) as container:
        frames = enumerate(container.decode(video=0))
        while True:
            try:
                number, frame = next(frames)
                pixels = frame.to_ndarray(format="rgb24") if number % every == 0 else None
            except StopIteration:
                return
            except (OSError, ValueError) as error:
                raise _unreadable(path, error) from None
            if pixels is not None:
                yield number, pixels


def frame_rate(path: str) -> float:
    """Frames a second, 30 where the file does not say.

    Raises:
        InputError: no video; or PyAV is not installed.
    """
    with _open(path) as container:
        return float(container.streams.video[0].average_rate or STRIDE_FPS)


def read_views(
    path: str, frames: int = 16, stride: float = 4, size: int = 224, temporal: int = 5, spatial: int = 3
) -> Tensor:
    """Read the views that a video is evaluated by: 5 clips of 3 crops each, as in the paper.

    The shorter side is resized to ``size`` (bilinear), and the crops are the first, the middle and the last square
    along the longer side: 224, not 256, as in the loader that the authors evaluated with.

    Args:
        path: a video file.
        frames: T.
        stride: see `clip_frames`.
        size: side of the crops in pixels.
        temporal: clips, evenly over the video, the first at its start and the last at its end.
        spatial: 3 crops, or 1, the middle one.

    Returns:
        ``[V, 3, T, size, size]``, normalised, the crops of the first clip first.

    Raises:
        InputError: as of `read_clip`, or views that cannot be cut.
    """
    if temporal < 1 or spatial not in (1, 3):
        raise InputError(f"views {spatial}x{temporal}: give 1 or 3 crops and at least 1 clip")
    views = []
    for clip in _read(path, frames, stride, even_places(temporal)):
        views += _crops(_resize_short(normalise_clip(clip), size), size, spatial)
    return torch.stack(views)


def normalise_clip(clip: Tensor) -> Tensor:
    """Bytes to what the published video models expect, in the same shape."""
    return (clip.float() / 255 - MEAN) / STD


def _resize_short(clip: Tensor, size: int) -> Tensor:
    """``[3, T, H, W]`` with its shorter side at ``size``."""
    height, width = clip.shape[-2:]
    scale = size / min(height, width)
    target = (size, math.floor(width * scale)) if height < width else (math.floor(height * scale), size)
    return F.interpolate(clip.transpose(0, 1), size=target, mode="bilinear", align_corners=False).transpose(0, 1)


def _crops(clip: Tensor, size: int, count: int) -> list[Tensor]:
    """Squares along the longer side."""
    height, width = clip.shape[-2:]
    room = max(height, width) - size
    offsets = [math.ceil(room / 2)] if count == 1 else [0, math.ceil(room / 2), room]
    if width >= height:
        return [clip[..., offset : offset + size] for offset in offsets]
    return [clip[..., offset : offset + size, :] for offset in offsets]


def _read(path: str, frames: int, stride: float, places: Sequence[float]) -> list[Tensor]:
    """Clips ``[3, T, H, W]`` of bytes at the given places."""
    need("av", "reading videos")
    count, fps = _probe(path)
    clips = clip_frames(path, count, fps, frames, stride, places)
    pictures, decoded = _decode(path, {number for clip in clips for number in clip})
    if decoded <= max(number for clip in clips for number in clip):  # packets that give no frame, or damaged ones
        logger.warning("%s: %d of its %d frames can be decoded; the others are left out", path, decoded, count)
        clips = clip_frames(path, decoded, fps, frames, stride, places)
        pictures, _ = _decode(path, {number for clip in clips for number in clip})
    return [torch.stack([pictures[number] for number in clip], dim=1) for clip in clips]


def _open(path: str) -> Any:
    """An open video file."""
    import av

    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{path}: cannot be read as a video (it is no regular file)")
    try:
        container = av.open(f"file:{path}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except (OSError, ValueError) as error:  # PyAV's errors are both
        raise _unreadable(path, error) from None
    video = container.streams.video
    reason = "" if video else "there is no picture in it"
    if video and (video[0].width or 0) * (video[0].height or 0) > MAX_PIXELS:
        reason = f"its frames of {video[0].width}x{video[0].height} have more than {MAX_PIXELS // 10**6} million pixels"
    if reason:
        container.close()
        raise InputError(f"{path}: cannot be read as a video ({reason})")
    return container


def _probe(path: str) -> tuple[int, float]:
    """Number of frames, as packets tell, and frames a second."""
    with _open(path) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 0)
        try:
            return sum(1 for packet in container.demux(stream) if packet.size), fps
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None


def _decode(path: str, wanted: Collection[int]) -> tuple[dict[int, Tensor], int]:
    """The frames of the given numbers, ``[3, H, W]`` of bytes, and how many frames were decoded on the way."""
    last, found, number = max(wanted), {}, -1
    with _open(path) as container:
        try:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                if number == last:
                    break
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None
    return _same_size(path, found), number + 1


def _same_size(path: str, pictures: dict[int, Tensor]) -> dict[int, Tensor]:
    """Refuse a video whose frames change their size on the way."""
    sizes: Sequence[tuple[int, ...]] = sorted({tuple(picture.shape[1:]) for picture in pictures.values()})
    if len(sizes) > 1:
        raise InputError(f"{path}: its frames are of several sizes, {sizes[0]} and {sizes[1]}; convert it first")
    return pictures


def _unreadable(path: str, error: Exception) -> InputError:
    """The line for a file that PyAV cannot read."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"{path}: cannot be read as a video ({' '.join(str(reason).split())})")
