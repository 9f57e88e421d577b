"""Configs and overrides as nobody would write them: one line each, never a traceback.

The long form: ``HIERA_DET_FUZZ=5000 pytest tests/d2/test_config_fuzz.py -s``; ``HIERA_DET_FUZZ_SEED`` begins elsewhere.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from hiera_det.d2.config.layers import get_value
from hiera_det.d2.config.load import default_config, load_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.train.trainer import Trainer
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.errors import InputError

CASES = int(os.environ.get("HIERA_DET_FUZZ", "120"))
SEED = int(os.environ.get("HIERA_DET_FUZZ_SEED", "0"))
#: Of the cases that are taken, how many in a row are only set up before one takes a step too.
STEP_EVERY = 20
QUICK = Path(__file__).parents[2] / "configs" / "quick_start.yaml"
SMALL = ["MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]", "MODEL.FPN.OUT_CHANNELS", "16"]
SMALL += ["MODEL.ROI_BOX_HEAD.FC_DIM", "16", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
SMALL += ["DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "1", "MODEL.DEVICE", "cpu", "TEST.EVAL_PERIOD", "0"]
SMALL += ["TEST.PICTURES", "0", "TEST.REPORT", "False"]
ODD = ["None", "True", "false", "", "x", "nan", "inf", "-inf", "1e400", "-1", "0", "1", "2", "3", "7"]
ODD += ["0.5", "1e-300", "1000000007", "9" * 40, "9" * 5000, "(1,)", "()", "[]", "[[]]", "[1, 2]"]
ODD += ["[-1, 0, 1]", "['a']", "[None]", "1/0", "{'a': 1}", "{1}", "b'x'", "(", "[" * 400, "[[32], [64]]"]
ODD += ["((10., 10., 5., 5.),)", "'", "\x1b[31m", "a" * 5000, "\U0001f389", "../../etc/passwd"]
ODD += ["http://127.0.0.1:9/x", "!!python/object/apply:os.getcwd []", "\x00", "1j", "0x10", "[nan]"]
ODD += ["[inf, 1.0]", "(0.5, 'x')", "[[1, 'a']]", "[True]", "1_0", "-0.0", "5e-324", "GN", "BN", "LN", "p2"]
ODD += ["['p2']"]
WORDS = ["SGD", "norm", "vertical", "bitmask", "BGR", "avg", "giou", "ROIAlign", "range", "absolute"]
WORDS += ["bfloat16", "tile", "zero", "sqrt", "cpu", "LN", "GN", "small", "none", "WarmupCosineLR"]
WORDS += ["CascadeROIHeads", "RepeatFactorTrainingSampler", "RetinaNet", "build_hiera_simple_fpn_backbone"]
LINES = ["\t- a", "- b", "SOLVER: 3", "MODEL:", "  x: {", "_BASE_: http://127.0.0.1:9/a.yaml"]
LINES += ["_BASE_: config.yaml", "_BASE_: .", "_BASE_: /etc/passwd", "_BASE_: [1, 2]"]
LINES += ["a: !!python/name:os.system", "? [a, b]", "1: 2", "<<: 3", "a: &a [*a, *a]"]
LINES += ["SOLVER: {BASE_LR: 2020-13-45}", "SOLVER: {STEPS: &s [1, *s]}", "VERSION: 1", "VERSION: x", "..."]
LINES += ["MODEL: {WEIGHT: a}", "SOLVER: {MAX_ITER: 1e3}", "INPUT: {LSJ: null}", "%TAG ! x", "'unclosed", "@x"]
LINES += ["a: b: c"]


def keys_of(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield from keys_of(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]


USUAL = load_config(str(QUICK))
KEYS = sorted(set(keys_of(default_config())) - {"OUTPUT_DIR", "MODEL.DEVICE"})


def near(draw: random.Random, key: str) -> str:
    """A value not far from the usual one."""
    value = get_value(USUAL, key)
    if isinstance(value, str):
        return draw.choice([value, *WORDS])
    if isinstance(value, bool) or not isinstance(value, int | float):
        entries = list(value) if isinstance(value, list | tuple) else []
        return str(draw.choice([entries[:-1], entries * 2, entries[::-1], [*entries, None], not value]))
    return str(draw.choice([value * 2, value + 1, value - 1, -value, value / 3, value * 1000]))


def overrides(draw: random.Random) -> list[str]:
    pairs = []
    for _ in range(draw.choice([1, 1, 2, 3])):
        key = draw.choice(KEYS)
        if draw.random() < 0.1:
            place = draw.randrange(len(key))
            key = key[:place] + draw.choice("_.XQ") + key[place + 1 :]
        pairs += [key, near(draw, key) if key in KEYS and draw.random() < 0.7 else draw.choice(ODD)]
    return pairs


def mutated(draw: random.Random, lines: list[str]) -> bytes:
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(lines))
        what = draw.randrange(6)
        if what == 0:
            lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(ODD)
        elif what == 1:
            lines.insert(at, draw.choice(LINES))
        elif what == 2:
            lines[at] = " " * draw.randrange(4) + lines[at]
        elif what == 3:
            lines.insert(at, lines[draw.randrange(len(lines))])
        elif what == 4:
            del lines[at]
        else:
            place = draw.randrange(len(lines[at]) + 1)
            lines[at] = (
                lines[at][:place] + chr(draw.choice([0, 7, 34, 39, 58, 91, 123, 233, 0x202E])) + lines[at][place:]
            )
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return content[: draw.randrange(len(content))] if draw.random() < 0.05 else content


def case(number: int, folder: Path, data: ShapesPaths) -> RunRequest:
    draw = random.Random(f"{SEED} {number}")
    config, words = QUICK, [*SMALL]
    if draw.random() < 0.4:
        config = folder / "config.yaml"
        own = [line for line in QUICK.read_text().splitlines() if not line.startswith(("_BASE_", "#"))]
        config.write_bytes(mutated(draw, [f"_BASE_: {QUICK}", *own]))
    else:
        words += overrides(draw)
    paths = [data.train_json, data.train_images, data.val_json, data.val_images]
    return RunRequest(str(config), [*words, "OUTPUT_DIR", str(folder / f"out{number}")], *map(str, paths))


def outcome(request: RunRequest, with_step: bool) -> str:
    """What became of a request; any other exception than a user's mistake is a fault of ours."""
    try:
        cfg = setup_config(request)
        if with_step and sum(get_value(cfg, "MODEL.HIERA.DEPTHS")) < 9 and cfg.SOLVER.IMS_PER_BATCH < 9:
            trainer = Trainer(cfg)
            trainer.resume_or_load(False)
            trainer.max_iter = 1
            trainer.train()
            return "trained"
    except InputError as error:
        return "refused" if "\n" not in str(error) and 5 < len(str(error)) < 3000 else "refused in other words"
    except FloatingPointError:
        return "diverged"
    return "taken"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("data"), train=4, val=2, size=64)


def test_odd_configs_and_overrides_end_in_one_line_or_are_taken(
    data: ShapesPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.disable(logging.WARNING)
    monkeypatch.chdir(tmp_path)
    outcomes: Counter[str] = Counter()
    faults = []
    for number in range(CASES):
        request, start = case(number, tmp_path, data), time.monotonic()
        try:
            outcomes[outcome(request, outcomes["taken"] % STEP_EVERY == STEP_EVERY - 1)] += 1
        except Exception as error:
            outcomes["fault"] += 1
            faults.append(
                f"{number}: {type(error).__name__}: {error} {request.config_file} {request.opts[len(SMALL) : -2]}"
            )
        if time.monotonic() - start > 10:
            faults.append(f"{number}: took {time.monotonic() - start:.0f} s: {request.opts[len(SMALL) : -2]}")
    logging.disable(logging.NOTSET)
    print(f"seed {SEED}: {dict(outcomes)}")
    assert not faults, "\n".join(faults)
    assert set(outcomes) <= {"refused", "taken", "trained", "diverged"}
    assert outcomes["refused"] > CASES / 3
    assert outcomes["taken"] > CASES / 50
