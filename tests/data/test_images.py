"""Opening image files: the same pixels whatever the kind of file, and one line for what cannot be read."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hiera_det.data.bad_images import BadImages
from hiera_det.data.images import FORMATS, MAX_PIXELS, BadImageError, read_header, read_image, to_8_bits
from hiera_det.errors import InputError


def grey(height: int = 6, width: int = 8) -> npt.NDArray[np.uint8]:
    """All brightnesses from black to white."""
    return np.linspace(0, 255, height * width).round().astype(np.uint8).reshape(height, width)


def save(path: Path, pixels: npt.NDArray[Any], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (6, 4)), (3, (6, 4)), (6, (4, 6)), (8, (4, 6))])
def test_the_size_is_that_of_the_upright_image(
    tmp_path: Path, orientation: int, size: tuple[int, int], name: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(tmp_path / name, exif=exif)
    header = read_header(tmp_path / name)
    assert (header.width, header.height) == size == read_image(tmp_path / name).size
    assert header.is_rotated == (size == (4, 6))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif"):
        Image.fromarray(grey()).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = ImageOps.exif_transpose(image)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name, "L")), np.asarray(expected))


def test_a_damaged_exif_block_counts_as_none(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_header(tmp_path / "a.jpg").width == 6
    assert read_image(tmp_path / "a.jpg").size == (6, 4)


DEEP = {
    "16-bit.png": grey().astype(np.uint16) * 257,
    "16-bit.tif": grey().astype(np.uint16) * 257,
    "big-endian.tif": (grey().astype(np.uint16) * 257).astype(">u2"),
    "32-bit.tif": grey().astype(np.int32) * 257,
    "bytes in 32 bits.tif": grey().astype(np.int32),
    "0 to 1.tif": (grey() / 255).astype(np.float32),
    "0 to 255.tif": grey().astype(np.float32),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_images_show_the_same_as_the_image_of_8_bits(tmp_path: Path, name: str) -> None:
    image = read_image(save(tmp_path / name, DEEP[name]))
    np.testing.assert_array_equal(np.asarray(image), np.repeat(grey()[..., None], 3, axis=2))


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[0.0, np.nan]], dtype=np.float32),
        np.array([[-1.0, 0.5]], dtype=np.float32),
        np.array([[0.0, 4095.0]], dtype=np.float32),
        np.array([[-5, 7]], dtype=np.int32),
        np.array([[0, 70000]], dtype=np.int32),
    ],
)
def test_values_of_unknown_meaning_are_refused_and_not_clipped(tmp_path: Path, pixels: npt.NDArray[Any]) -> None:
    with pytest.raises(BadImageError, match=r"a\.tif: cannot be read as an image \(its pixels are from .*scale them"):
        read_image(save(tmp_path / "a.tif", pixels))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16, np.int16, np.uint16, np.bool_])
def test_empty_pixels_and_every_type_become_bytes(dtype: Any) -> None:
    assert to_8_bits(np.zeros((0, 3), dtype=dtype)).dtype == np.uint8
    assert to_8_bits(np.ones((1, 1), dtype=dtype)).dtype == np.uint8


def test_pixels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="type complex128"):
        to_8_bits(np.ones((2, 2), dtype=np.complex128))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    source = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    source.paste((0, 0, 255, 255), (0, 0, 2, 4))
    name = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    if mode == "PA":
        name = tmp_path / "a.webp"  # Pillow writes no file of this mode
        source.save(name, lossless=True)
    elif mode == "P":
        source.convert("RGB").quantize(4).save(name, transparency=source.convert("RGB").quantize(4).getpixel((3, 0)))
    else:
        source.convert(mode).save(name)
    assert read_header(name).is_transparent
    image = read_image(name)
    assert image.getpixel((3, 0)) == (255, 255, 255)
    assert image.getpixel((0, 0)) != (255, 255, 255)


def test_half_transparent_is_halfway_to_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", "L").getpixel((0, 0)) == 127
    assert not read_header(save(tmp_path / "b.png", grey())).is_transparent


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").getpixel((0, 0)) == (255, 255, 255)
    assert read_image(tmp_path / "a.tif", "L").mode == "L"


def test_an_inverted_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").getpixel((8, 8)), (200, 30, 60), atol=6)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_promised_format_is_read_whatever_its_name(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 8), (200, 30, 60)).save(tmp_path / "image", format=kind)
    assert read_image(tmp_path / "image").size == (16, 8)
    np.testing.assert_allclose(read_image(tmp_path / "image").getpixel((8, 4)), (200, 30, 60), atol=6)


def test_of_several_pages_or_frames_the_first_is_read(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.tif", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
        assert read_image(tmp_path / name).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "ICO"])
@pytest.mark.parametrize("read", [read_header, read_image])
def test_other_formats_are_refused_under_any_name(tmp_path: Path, kind: str, read: Any) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", format=kind)
    Image.open(tmp_path / "a.jpg").close()  # Pillow by itself would take it, and start Ghostscript for an EPS
    with pytest.raises(BadImageError, match=r"a\.jpg: cannot be read as an image \(none of JPEG, PNG"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n\x00", b"\xff\xd8\xff", b"GIF89a"])
@pytest.mark.parametrize("read", [read_header, read_image])
def test_what_is_no_image_is_one_line_with_its_name(tmp_path: Path, content: bytes, read: Any) -> None:
    (tmp_path / "a\n\x1b.png").write_bytes(content)
    with pytest.raises(BadImageError, match=r"a\\n\\x1b\.png: cannot be read as an image \(") as caught:
        read(tmp_path / "a\n\x1b.png")
    assert str(caught.value).isprintable()


def test_a_cut_image_and_a_missing_one_are_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    assert read_header(tmp_path / "cut.jpg").width == 64
    with pytest.raises(BadImageError, match=r"cut\.jpg: cannot be read as an image \(image file is truncated"):
        read_image(tmp_path / "cut.jpg")
    with pytest.raises(BadImageError, match=r"no\.jpg: cannot be read as an image \(No such file"):
        read_image(tmp_path / "no.jpg")
    with pytest.raises(BadImageError, match="Is a directory"):
        read_image(tmp_path)


def huge_png(path: Path, width: int, height: int) -> Path:
    """A file of some 100 bytes whose header promises that many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("read", [read_header, read_image])
@pytest.mark.parametrize(("width", "height"), [(13000, 13077), (60000, 60000), (10001, 10000)])
def test_a_small_file_of_too_many_pixels_is_refused_by_its_header(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, read: Any, width: int, height: int
) -> None:
    path = huge_png(tmp_path / "a.png", width, height)
    with pytest.raises(
        BadImageError, match=rf"a\.png: .*{width}x{height} are .*cut it into tiles, or .* INPUT\.MAX_PIXELS"
    ):
        read(path)
    assert not recwarn.list


def test_the_limit_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = huge_png(tmp_path / "a.png", 20000, 20000)  # more than Pillow's own limit
    before = Image.MAX_IMAGE_PIXELS
    assert read_header(path, max_pixels=10**9).width == 20000
    assert before == Image.MAX_IMAGE_PIXELS
    assert read_header(huge_png(tmp_path / "b.png", 10000, 10000)).width == 10000
    assert MAX_PIXELS == 10000 * 10000
    with pytest.raises(BadImageError, match=r"more than 0\.001 million"):
        read_image(save(tmp_path / "c.png", np.zeros((40, 40), dtype=np.uint8)), max_pixels=1000)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_of_every_format_end_in_one_line_or_an_image(tmp_path: Path) -> None:
    rng = random.Random(0)
    noise = Image.effect_noise((40, 30), 60)
    for kind in FORMATS:
        file = io.BytesIO()
        noise.convert("RGB").save(file, format=kind)
        whole = file.getvalue()
        for number in range(60):
            damaged = bytearray(whole[: rng.randrange(len(whole))] if number % 3 == 0 else whole)
            for _ in range(rng.randrange(1, 8)):
                if damaged:
                    damaged[rng.randrange(min(len(damaged), 200 if number % 2 else len(damaged)))] = rng.randrange(256)
            (tmp_path / "a").write_bytes(damaged)
            with contextlib.suppress(BadImageError):  # and nothing else
                assert read_image(tmp_path / "a", max_pixels=10**6).mode == "RGB"


def left_out(bad_images: BadImages, path: Path) -> None:
    try:
        read_image(path)
    except BadImageError as error:
        bad_images.add(error)


def test_bad_images_are_counted_over_processes_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad_images = BadImages("skip")
    with caplog.at_level(logging.WARNING, logger="hiera_det.data"):
        for name in ("a.png", "b.png", "a.png"):
            left_out(bad_images, tmp_path / name)
    worker = multiprocessing.get_context("fork").Process(target=left_out, args=(bad_images, tmp_path / "c.png"))
    worker.start()
    worker.join()
    assert bad_images.count == 4
    assert len(caplog.messages) == 2
    assert "a.png: cannot be read as an image (No such file or directory): left out" in caplog.messages[0]


def test_a_bad_image_ends_the_run_unless_told_otherwise(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"a\.png"):
        left_out(BadImages(), tmp_path / "a.png")
    with pytest.raises(InputError, match=r"INPUT\.ON_BAD_IMAGE 'ignore': choose fail or skip"):
        BadImages("ignore")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(BadImageError, match=rf"{name}: cannot be read as an image \(it is no regular file\)"):
            read_image(tmp_path / name)
