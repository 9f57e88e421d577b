"""Damaged and odd images through everything that reads one: an image, the same for all, or one line with its name.

The long form: ``HIERA_DET_FUZZ_IMAGES=2000 pytest tests/d2/test_image_fuzz.py -s`` prints counts; a seed that fails is
in the message, and ``HIERA_DET_FUZZ_SEED`` begins there.
"""

from __future__ import annotations

import io
import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiera_det.d2.data.mapper import build_test_mapper, build_train_mapper
from hiera_det.d2.data.pixels import read_pixels
from hiera_det.d2.predict.predictor import Predictor
from hiera_det.data.bad_images import BadImages
from hiera_det.data.images import FORMATS, BadImageError, read_header, read_image
from hiera_det.errors import InputError
from hiera_det.tasks.transforms import Augmentation, augmented_reader, cropped_reader, eval_reader

CASES = int(os.environ.get("HIERA_DET_FUZZ_IMAGES", "60"))
SEED = int(os.environ.get("HIERA_DET_FUZZ_SEED", "0"))
SECONDS = 10
LIMIT = 10**6
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F", "La")
SIZES = ((1, 1), (1, 300), (300, 1), (40, 30), (33, 64), (2, 2))


def written(draw: random.Random) -> bytes:
    """An image of some mode and size in the first format that takes it."""
    numbers = np.random.default_rng(draw.randrange(2**32))
    width, height = draw.choice(SIZES)
    mode = draw.choice(MODES)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((numbers.random((height, width)) * draw.choice([1, 255, 65535])).astype(kind))
    else:
        image = Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for step in {"PA": ("P", "PA"), "LAB": (), "La": ("LA", "La"), "HSV": ("HSV",)}.get(mode, (mode,)):
            image = image.convert(step)
    options: dict[str, Any] = {}
    if draw.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = draw.choice([0, 1, 3, 5, 6, 8, 9, 65535])
        options["exif"] = exif.tobytes()
    if draw.random() < 0.1:
        options["transparency"] = draw.choice([0, 255])
    for kind in draw.sample(FORMATS, len(FORMATS)):
        file = io.BytesIO()
        try:
            image.save(file, format=kind, **options)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SystemError):
            continue
        return file.getvalue()
    return b""


def damaged(draw: random.Random) -> bytes:
    """Its bytes, often changed, cut, doubled or after other bytes."""
    content = bytearray(written(draw))
    what = draw.randrange(6)
    if what == 0 and content:
        del content[draw.randrange(len(content)) :]
    elif what in (1, 2) and content:
        for _ in range(draw.choice([1, 1, 3, 20])):
            near = draw.random() < 0.6  # where sizes, depths and tables are
            content[draw.randrange(min(len(content), 120) if near else len(content))] = draw.randrange(256)
    elif what == 3 and content:
        at = draw.randrange(len(content))
        content[at:at] = content[at // 2 : at] + bytes(draw.choice([0, 1, 4000]))
    return bytes(content)


def readers(run_folder: Path) -> dict[str, Callable[[str], Any]]:
    """Everything that reads an image file, by name; each gives something of it or raises."""
    predictor = Predictor.from_folder(run_folder, ("INPUT.MAX_PIXELS", str(LIMIT), "INPUT.MIN_SIZE_TEST", "32"))
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    train, test = build_train_mapper(cfg), build_test_mapper(cfg)

    def mapped(mapper: Any) -> Callable[[str], Any]:
        def read(path: str) -> Any:
            header = read_header(path, LIMIT)
            record = {"file_name": path, "image_id": 1, "height": header.height, "width": header.width}
            found = mapper({**record, "annotations": []})
            if isinstance(found, BadImageError):
                raise found
            return found

        return read

    plain = Augmentation(auto_augment="", random_erase=0.0)
    return {
        "image": lambda path: read_image(path, max_pixels=LIMIT),
        "grey": lambda path: read_image(path, "L", LIMIT),
        "pixels RGB": lambda path: read_pixels(path, "RGB", LIMIT),
        "pixels BGR": lambda path: read_pixels(path, "BGR", LIMIT),
        "train mapper": mapped(train),
        "test mapper": mapped(test),
        "crop": lambda path: cropped_reader(32).with_limits(LIMIT, BadImages()).read(path),
        "evaluation": lambda path: eval_reader(32).with_limits(LIMIT, BadImages()).read(path),
        "augmented": lambda path: augmented_reader(32, plain).with_limits(LIMIT, BadImages()).read(path),
        "prediction": lambda path: next(iter(predictor.predict_files(path))),
    }


def outcomes(path: str, ways: dict[str, Callable[[str], Any]]) -> Iterator[tuple[str, str]]:
    """What each reader makes of a file: "" or the refusal without the file's name."""
    for name, read in ways.items():
        begun = time.process_time()
        try:
            read(path)
            said = ""
        except InputError as error:
            said = str(error)
            assert said.isprintable(), f"{name}: {said!r}"
            assert os.path.basename(path) in said, f"{name}: {said}"
        assert time.process_time() - begun < SECONDS, f"{name} is slow"
        yield name, said


@pytest.mark.filterwarnings("ignore")
def test_every_reader_gives_an_image_or_the_same_line(tmp_path: Path, run_folder: Path) -> None:
    ways = readers(run_folder)
    counts: Counter[str] = Counter()
    for seed in range(SEED, SEED + CASES):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(damaged(random.Random(seed)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = dict(outcomes(str(path), ways))
                header = read_header(path, LIMIT) if not found["image"] else None
            assert len({bool(said) for said in found.values()}) == 1, str({k: v for k, v in found.items() if v})
            if header:
                image = read_image(path, max_pixels=LIMIT)
                assert (image.width, image.height) == (header.width, header.height)
                assert image.mode == "RGB"
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        counts["refused" if found["image"] else "taken"] += 1
        path.unlink()
    print(f"{CASES} images from seed {SEED} by {len(ways)} readers: {dict(counts)}")
    assert counts["refused"] > 0
    assert counts["taken"] > 0
