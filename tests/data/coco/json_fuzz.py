"""Mutated JSONs through everything that reads one: check, repair, records, mapper and evaluator.

Each JSON must be refused in one printable line, or be taken and go through all of it. A JSON is made of its seed alone,
so that a failing one can be had again.

The long form, in processes of 500 JSONs each, so that a crash costs no more:
    python tests/data/coco/json_fuzz.py --count 10000
    python tests/data/coco/json_fuzz.py --seed 4711 --count 1 --show
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coco_data import HEIGHT, WIDTH, annotation, sound
from PIL import Image

from hiera_det.data.coco.check import check_coco_json, check_dataset
from hiera_det.data.coco.read import read_coco
from hiera_det.data.coco.repair import repair_coco_json
from hiera_det.data.coco.write import dataset_of
from hiera_det.errors import InputError

RLE = {"size": [HEIGHT, WIDTH], "counts": [20, 8, WIDTH * HEIGHT - 28]}
#: Stand for literals that `json.dumps` does not write.
RAW = {"@digits": "9" * 5000, "@deep": "[" * 3000 + "]" * 3000, "@minus": "-" + "8" * 4400, "@1e999": "1e999"}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.0, 1e-320, 15.999, 1e5, -1e5, 1e18, 1e300, -1e308),
    *(2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, -(10**400)),
    *(float("nan"), float("inf"), float("-inf"), *RAW),
    *("", " ", "1", "3", "text", "a.png", "/a.png", "../a.png", "A.PNG", "a%2Epng", "x\\a.png", "a\0b", "\ud800"),
    *("\u202e", "\x1b[31m", "a\nb", "x" * 10_000, "none", "0", "-1", "NaN", "o" * 1000, "0" * 100, "`0o", "\u00e9"),
    *([], {}, [[]], [{}], [None], ["a"], [1, 2, 3], [1, 2, 3, 4], [0, 0, 0, 0], [-5, -5, 1, 1], [1, 2, -3, 4]),
    *([[1, 2, 3, 4]], [[1, 1, 5, 5, 3, 3]], [[1] * 6], [[2, 2, 10, 2, 10, 8], [1, 1, 2, 2]], [[1, 2, 3, 4, 5, 6, 7]]),
    *([[1, 2, 3, 4, 5, float("nan")]], [[2, 2, 2**63, 2, 3, 9]], [[2, 2, 900, 2, 3, 9]], [[1e6] * 6], [["1"] * 6]),
    *(
        RLE,
        {"counts": [1]},
        {"size": [12, 16]},
        {**RLE, "size": [16, 12]},
        {**RLE, "counts": "x"},
        {**RLE, "counts": []},
    ),
    *({**RLE, "counts": [2**32, -1]}, {**RLE, "counts": [192]}, {**RLE, "counts": [0, 192]}, {**RLE, "counts": [0.5]}),
    *({**RLE, "counts": None}, {**RLE, "size": [10**400, 1]}, {**RLE, "counts": "d0`"}, {**RLE, "counts": "P6"}),
)
KEYS = (
    *("id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "ignore", "keypoints", "is_crowd"),
    *("file_name", "width", "height", "name", "supercategory", "images", "annotations", "categories", "info", "Bbox"),
)


def start(rng: random.Random) -> dict[str, Any]:
    """A sound JSON of one of several kinds."""
    data = sound()
    kind = rng.randrange(5)
    for entry in data["annotations"]:
        if kind == 1:
            entry["segmentation"] = copy.deepcopy(RLE)
        elif kind == 2:
            del entry["segmentation"]
        elif kind == 3:
            entry["keypoints"] = [3, 3, 2, 5, 5, 1]
    if kind == 4:
        data["annotations"].append(annotation(13, image_id=2, iscrowd=1, segmentation=copy.deepcopy(RLE)))
    return data


def mutated(seed: int) -> bytes:
    """The JSON of a seed."""
    rng = random.Random(seed)
    data = start(rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        _mutate(data, rng)
    text = json.dumps(data)
    for word, raw in RAW.items():
        text = text.replace(f'"{word}"', raw)
    content = text.encode("utf-8", "surrogatepass") if rng.random() < 0.1 else text.encode()
    return _damaged(content, rng) if rng.random() < 0.1 else content


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container and key or index within."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield value, key
        yield from _places(inner)


def _mutate(data: dict[str, Any], rng: random.Random) -> None:
    places = list(_places(data))
    if not places:
        return
    container, key = rng.choice(places)
    what = rng.randrange(6)
    value = container[key]
    if type(value) in (int, float) and abs(value) < 10**18 and rng.random() < 0.5:  # mild, so that many are taken
        container[key] = rng.choice((value + rng.randrange(-9, 10), value * rng.uniform(-1, 3)))
    elif what <= 2:
        container[key] = copy.deepcopy(rng.choice(VALUES))
    elif what == 3:
        del container[key]
    elif what == 4 and isinstance(container, list):
        container.insert(
            rng.randrange(len(container) + 1), copy.deepcopy(rng.choice([container[key], rng.choice(VALUES)]))
        )
    elif isinstance(container, dict):
        container[rng.choice(KEYS)] = container.pop(key) if rng.random() < 0.5 else copy.deepcopy(rng.choice(VALUES))
    else:
        other, place = rng.choice(places)
        with contextlib.suppress(KeyError, IndexError):
            container[key] = copy.deepcopy(other[place])


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, changed, doubled or put in."""
    at, what = rng.randrange(len(content)), rng.randrange(4)
    if what == 0:
        return content[:at]
    if what == 1:
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    if what == 2:
        return (
            content[:at]
            + rng.choice((b"\xef\xbb\xbf", b"\x00", b",", b"}", b'"', b"[", b"-", b"1" * 5000))
            + content[at:]
        )
    end = min(len(content), at + rng.randrange(1, 50))
    return content[:end] + content[at:]


def go_through(path: Path, images: Path, *, with_detectron2: bool) -> str:
    """Read a JSON with everything that reads one; "refused" or "taken".

    Raises:
        AssertionError: a refusal is no plain line, or findings and refusal contradict each other.
        Exception: whatever else is raised is a defect.
    """
    findings = check_dataset(path, images)
    for finding in findings:
        assert str(finding).isprintable(), finding
    with contextlib.suppress(InputError):
        fixed = path.with_name("fixed.json")
        repair_coco_json(path, images, fixed)
        assert isinstance(check_dataset(fixed, images), list)
    refusal = _refusal(path, images)
    if refusal:
        assert refusal.isprintable(), refusal
        assert len(refusal) < 3000, refusal
        assert any(finding.severity == "error" for finding in findings), refusal
        return "refused"
    assert not any(finding.severity == "error" for finding in findings), findings
    contents = read_coco(path).contents
    assert contents is not None
    dataset = dataset_of(contents)
    json.dumps(dataset)
    _evaluate(dataset)
    if with_detectron2:
        _load(path, images)
    return "taken"


def _refusal(path: Path, images: Path) -> str:
    try:
        check_coco_json(path, images)
    except InputError as error:
        return str(error)
    return ""


def _evaluate(dataset: dict[str, Any]) -> None:
    """Perfect answers, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        entries = dataset["annotations"]
        for kind in ("bbox", "segm") if entries and all("segmentation" in entry for entry in entries) else ("bbox",):
            answers = [
                {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for entry in entries
            ]
            for answer, entry in zip(answers, entries, strict=True):
                if kind == "segm":
                    answer["segmentation"] = truth.annToRLE(entry)
            if answers:
                evaluator = COCOeval(truth, truth.loadRes(answers), kind)
                evaluator.evaluate()
                evaluator.accumulate()
                evaluator.summarize()


def _load(path: Path, images: Path) -> None:
    """detectron2's records through the training's own mapper."""
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from hiera_det.d2 import add_hiera_config
    from hiera_det.d2.data.datasets import own_data_config
    from hiera_det.d2.data.mapper import build_train_mapper

    cfg = get_cfg()
    add_hiera_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.MODEL.MASK_ON = check_coco_json(path, images).mask_format is not None
    own_data_config(cfg, str(path), str(images))
    mapper = build_train_mapper(cfg)
    name = cfg.DATASETS.TRAIN[0]
    for record in DatasetCatalog.get(name):
        mapper(record)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def make_images(folder: Path) -> Path:
    """The images of `sound`."""
    images = folder / "images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(images / name)
    return images


def run(seeds: range, *, with_detectron2: bool) -> Counter[str]:
    """Make and read the JSONs of these seeds; prints those that fail, and the slow ones."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        images = make_images(Path(folder))
        for seed in seeds:
            print(f"seed {seed}", file=sys.stderr, flush=True)  # the last one that is seen crashed
            path = Path(folder) / f"{seed}.json"
            path.write_bytes(mutated(seed))
            begin = time.process_time()
            try:
                counts[go_through(path, images, with_detectron2=with_detectron2)] += 1
            except Exception:
                counts["failed"] += 1
                print(f"FAILED seed {seed}\n{traceback.format_exc()}")
            if time.process_time() - begin > 10:
                counts["slow"] += 1
                print(f"SLOW seed {seed}: {time.process_time() - begin:.1f} s")
            path.unlink()
    return counts


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--loader", type=int, default=2_000, help="so many of them through detectron2's loader too")
    parser.add_argument("--show", action="store_true", help="print the JSON of --seed")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.show:
        print(mutated(args.seed)[:5000])
    if args.inner:
        print(json.dumps(run(range(args.seed, args.seed + args.count), with_detectron2=args.loader > 0)))
        return
    total: Counter[str] = Counter()
    for begin in range(args.seed, args.seed + args.count, 500):
        count = min(500, args.seed + args.count - begin)
        loader = 1 if begin - args.seed < args.loader else 0
        command = [sys.executable, __file__, "--inner", "--seed", begin, "--count", count, "--loader", loader]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        *lines, last = done.stdout.splitlines() or [""]
        print("\n".join(lines), end="\n" if lines else "")
        if done.returncode:
            total["crashed"] += 1
            print(f"CRASHED ({done.returncode}) at {done.stderr.splitlines()[-1:]}\n{done.stderr[-2000:]}")
        else:
            total.update(json.loads(last))
        print(f"seeds {args.seed} to {begin + count - 1}: {dict(total)}", flush=True)
    sys.exit(bool(total["failed"] or total["crashed"] or total["slow"]))


if __name__ == "__main__":
    main()
