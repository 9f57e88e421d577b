"""Clips of real video files: which frames, which crops, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from media import write_video
from torch import Tensor

from hiera_det.data.video import MEAN, STD, read_clip, read_frames, read_views
from hiera_det.errors import InputError


def frame_numbers(clip: Tensor) -> list[int]:
    """The numbers of a clip's frames, from their brightness; to one frame, for the codec rounds."""
    return [round(float(level) / 2) for level in clip.float().mean(dim=(0, 2, 3))]


def near(numbers: list[int], wanted: list[int]) -> bool:
    return len(numbers) == len(wanted) and all(abs(a - b) <= 1 for a, b in zip(numbers, wanted, strict=True))


def test_a_clip_takes_every_fourth_frame(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", 100))
    first = read_clip(path, frames=8, stride=4, place=0)
    assert first.shape == (3, 8, 48, 64)
    assert first.dtype == torch.uint8
    assert near(frame_numbers(first), [0, 4, 8, 12, 16, 20, 24, 28])
    assert near(frame_numbers(read_clip(path, 8, 4, place=1)), [68, 72, 76, 80, 84, 88, 92, 96])
    assert near(frame_numbers(read_clip(path, 8, 4)), [34, 38, 42, 46, 50, 54, 58, 62])


def test_the_stride_counts_frames_of_30_a_second(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", 60, fps=15))
    assert near(frame_numbers(read_clip(path, 8, 4, place=0)), [0, 2, 4, 6, 8, 10, 12, 14])


def test_a_short_video_is_covered_once_with_a_smaller_stride(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(write_video(tmp_path / "short.mp4", 16))
    with caplog.at_level(logging.WARNING):
        clip = read_clip(path, frames=8, stride=4)
    assert near(frame_numbers(clip), [0, 2, 4, 6, 8, 10, 12, 14])
    assert "short.mp4: 16 frames are too few for a stride of 4" in caplog.text


def test_a_video_with_fewer_frames_than_a_clip_is_refused(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "short.mp4", 5))
    with pytest.raises(InputError, match=r"short.mp4: has 5 frames, and a clip needs 8"):
        read_clip(path, frames=8)


def ramp(number: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Darker at the start of the longer side, brighter at its end."""
    line = np.linspace(0, 250, max(height, width))
    plane = line[None, :] if width > height else line[:, None]
    return np.broadcast_to(plane[..., None], (height, width, 3)).astype(np.uint8).copy()


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48)])
def test_views_are_three_squares_along_the_longer_side_of_five_clips(height: int, width: int, tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", 40, lambda number: ramp(number, height, width)))
    views = read_views(path, frames=4, stride=4, size=32)
    assert views.shape == (15, 3, 4, 32, 32)
    levels = (views * STD + MEAN).mean(dim=(1, 2, 3, 4))
    # Squares of 32 at 0, 16 and 32 of 64: their middles are at 1/4, 1/2 and 3/4 of the ramp.
    wanted = torch.tensor([0.25, 0.5, 0.75]).repeat(5) * 250 / 255
    torch.testing.assert_close(levels, wanted, atol=0.02, rtol=0)
    (middle,) = read_views(path, frames=4, size=32, temporal=1, spatial=1)
    torch.testing.assert_close(middle, views[7], atol=0.1, rtol=0)


def test_clips_of_views_reach_from_the_start_to_the_end(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", 100))
    views = (read_views(path, frames=5, stride=4, size=32, spatial=1) * STD + MEAN) * 255
    assert near([frame_numbers(view)[0] for view in views], [0, 20, 40, 60, 80])


@pytest.mark.parametrize("content", [b"", b"no video", b"\x89PNG\r\n\x1a\n", b"#EXTM3U\n#EXTINF:1,\nreal.mp4\n"])
def test_a_file_that_is_no_video_is_one_line(content: bytes, tmp_path: Path) -> None:
    write_video(tmp_path / "real.mp4", 40)  # which the last one, a playlist, points to
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"a.mp4: cannot be read as a video \(") as refused:
        read_clip(str(tmp_path / "a.mp4"))
    assert "\n" not in str(refused.value)


def test_a_cut_video_and_a_missing_one_are_one_line(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", 40).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name in ("cut.mp4", "none.mp4"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read as a video \("):
            read_clip(str(tmp_path / name))


def test_views_that_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="views 2x5"):
        read_views(str(tmp_path / "a.mp4"), spatial=2)


def test_frames_come_one_after_the_other(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", 10))
    frames = list(read_frames(path, every=4))
    assert [number for number, _ in frames] == [0, 4, 8]
    assert {(pixels.shape, pixels.dtype) for _, pixels in frames} == {((48, 64, 3), np.dtype(np.uint8))}
    assert [abs(float(pixels.mean()) / 2 - number) <= 1 for number, pixels in frames] == [True] * 3
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"b\.mp4: cannot be read as a video"):
        next(read_frames(str(tmp_path / "b.mp4")))


def test_frames_above_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_video(tmp_path / "a.mp4", 3))
    monkeypatch.setattr("hiera_det.data.video.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(InputError, match=r"its frames of 64x48 have more than 0 million pixels"):
        next(read_frames(path))
