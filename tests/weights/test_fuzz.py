"""Thousands of broken and odd weight files: each is refused in one line, or gives just the values that were saved.

``HIERA_DET_FUZZ_FILES=3000 HIERA_DET_FUZZ_SEED=1 pytest tests/weights/test_fuzz.py -s`` makes a long run, prints its
counts and names the seed of a file that fails; ``HIERA_DET_FUZZ_FILES=1 HIERA_DET_FUZZ_SEED=<that>`` makes it again.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hiera_det import build_hiera, hiera_classifier
from hiera_det.errors import InputError
from hiera_det.weights.convert import convert, write
from hiera_det.weights.inspect import describe
from hiera_det.weights.layouts import TARGETS
from hiera_det.weights.load import load_weights, read_contents
from hiera_det.weights.model_file import load_classifier
from hiera_det.weights.saving import save_tensors
from hiera_det.weights.sources import read_weight_file, verify
from hiera_det.weights.training_state import check_training_state

FILES = int(os.environ.get("HIERA_DET_FUZZ_FILES", "120"))
SEED = int(os.environ.get("HIERA_DET_FUZZ_SEED", "0"))
#: Longer than any of these small files may take, on a busy machine.
SECONDS = 60
FIELDS = {"embed_dim": 16, "num_heads": 1, "depths": [1, 1, 1, 1], "pretrain_size": 32, "frames": 0}
TINY = {**FIELDS, "depths": (1, 1, 1, 1)}

State = dict[str, Any]


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """What is saved: a trunk, a classifier with its dimensions, a detector's checkpoint in training."""
    torch.manual_seed(0)
    trunk = {name: torch.randn_like(tensor) for name, tensor in build_hiera("tiny", **TINY).state_dict().items()}
    classifier = hiera_classifier("tiny", 3, **TINY).state_dict()
    detector = {f"backbone.trunk.{name}": tensor for name, tensor in trunk.items()}
    detector |= {"roi_heads.box_predictor.cls_score.weight": torch.randn(4, 8)}
    optimizer = {"state": {0: {"exp_avg": torch.randn(50)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {
        "trunk": dict(trunk),
        "classifier": {"model_state": dict(classifier), "config": FIELDS, "classes": ["a", "b", "c"]},
        "detector": {"model": detector, "optimizer": optimizer, "iteration": 7, "categories": [{"id": 1, "name": "a"}]},
    }


@pytest.fixture(autouse=True)
def _no_hangs() -> Iterator[None]:
    """End a test that hangs in one file; each file starts the clock anew."""

    def late(*_: object) -> None:
        raise TimeoutError(f"a file took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------------- damaged bytes


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 1, 3, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_at_an_end(data: bytearray, rng: random.Random) -> None:
    """Where headers, names and directories are."""
    place = rng.randrange(min(3000, len(data)))
    data[place if rng.random() < 0.5 else -1 - place] ^= 1 << rng.randrange(8)


def zero_a_page(data: bytearray, rng: random.Random) -> None:
    size = rng.choice([16, 512, 4096, 65536])
    place = rng.randrange(len(data)) // size * size
    data[place : place + size] = bytes(len(data[place : place + size]))


def fill_a_page(data: bytearray, rng: random.Random) -> None:
    size, place = rng.choice([8, 512, 4096]), rng.randrange(len(data))
    data[place : place + size] = rng.randbytes(len(data[place : place + size]))


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def lose_a_piece(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice([1, 2, 64, 4096])]


def repeat_a_piece(data: bytearray, rng: random.Random) -> None:
    place, size = rng.randrange(len(data)), rng.choice([1, 64, 4096])
    data[place:place] = data[place : place + size]


def swap_two_pages(data: bytearray, rng: random.Random) -> None:
    size = 512
    one, other = (rng.randrange(len(data) - size) for _ in range(2))
    if abs(one - other) >= size:
        data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def append(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.choice([1, 100, 5000]))


DAMAGE: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    flip_at_an_end,
    zero_a_page,
    fill_a_page,
    truncate,
    lose_a_piece,
    repeat_a_piece,
    swap_two_pages,
    append,
)
FORMS = ("zip", "ours.safetensors", "legacy", "other.safetensors")


def save(state: State, path: Path, form: str) -> None:
    """Write a state in one of the forms; those without a checksum get one beside them."""
    if form == "ours.safetensors":
        save_tensors(path, tensors_of(state))
    elif form == "other.safetensors":
        save_file({name: tensor.clone() for name, tensor in tensors_of(state).items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")


def tensors_of(state: State) -> dict[str, Tensor]:
    """The state dict in what is saved."""
    return next((state[key] for key in ("model_state", "model") if key in state), state)


def same(one: Any, other: Any) -> bool:
    """Whether two things from files are equal to the bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def outcome(action: Callable[[], Any]) -> Any:
    """What an action gives, or the one line in which it is refused; anything else is a failure."""
    signal.alarm(SECONDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = action()
        except InputError as error:
            result = error
        finally:
            signal.alarm(0)
    assert not isinstance(result, InputError) or str(result).isprintable()
    return result


def test_damaged_files_are_refused_or_give_what_was_saved(states: dict[str, State], tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEED, SEED + FILES):
        rng = random.Random(seed)
        state, form, damage = states[rng.choice(list(states))], rng.choice(FORMS), rng.choice(DAMAGE)
        path = tmp_path / f"model{'.safetensors' if 'safetensors' in form else '.pth'}"
        save(state, path, form)
        beside = path.with_name(f"{path.name}.sha256")
        if form in ("legacy", "other.safetensors"):
            beside.write_text(hashlib.sha256(path.read_bytes()).hexdigest())
        data = bytearray(path.read_bytes())
        damage(data, rng)
        path.write_bytes(data)
        expected = state if form in ("zip", "legacy") else tensors_of(state)
        try:
            found, looked = outcome(lambda path=path: read_weight_file(path)), outcome(lambda path=path: verify(path))
            if isinstance(found, InputError):
                counts["refused"] += 1
            else:
                assert looked is None
                assert same(*(dict(sorted(content.items())) for content in (expected, found)))
                counts["accepted, and right"] += 1
            if beside.exists():  # no checksum: no promise of values, and no traceback either
                beside.unlink()
                unsure = outcome(lambda path=path: read_weight_file(path))
                if isinstance(unsure, dict):
                    right = same(*(dict(sorted(content.items())) for content in (expected, unsure)))
                    counts["accepted without any checksum, and " + ("right" if right else "wrong")] += 1
                    outcome(lambda path=path: load_weights(build_hiera("tiny", **TINY), path))
        except BaseException as error:
            raise AssertionError(f"HIERA_DET_FUZZ_SEED={seed}: {form}, {damage.__name__}: {error!r}") from error
    print(f"\n{FILES} damaged files from seed {SEED}: {dict(counts)}")
    assert counts["refused"] > FILES / 2


# --------------------------------------------------------------------------------------------------- odd names, tensors


def odd_name(rng: random.Random) -> str:
    return rng.choice(
        [
            "",
            "\n\x1b[2J",
            "\u202ename",
            "x" * 100_000,
            "blocks.0",
            "blocks.9999.norm1.weight",
            f"blocks.{'9' * 4000}.norm1.weight",
            "blocks.00.norm1.weight",
            "blocks.-1.norm1.weight",
            "encoder.stages.99999999.layers.0.a",
            "module.module.module.",
            "_orig_mod",
            "pos_embed_window",
            "pos_embed_spatial",
            "pos_embed_temporal",
            "head.projection.weight",
            "mask_token",
            "decoder_pos_embed",
            "backbone.trunk.pos_embed",
            "roi_heads.box_predictor.cls_score.weight",
            "cls_token",
            "..",
        ]
    )


def odd_tensor(rng: random.Random) -> Any:
    shape = rng.choice([(), (0,), (1,), (3,), (1, 64, 16), (1, 0, 16), (2, 3, 7, 7), (1, 16, 8, 8), (16,), (1, 63, 16)])
    dtypes = [torch.int64, torch.bool, torch.float8_e5m2, torch.complex64, torch.float16, torch.bfloat16, torch.uint8]
    kinds: list[Callable[[], Any]] = [
        lambda: torch.randn(shape),
        lambda: torch.zeros(shape, dtype=rng.choice(dtypes)),
        lambda: torch.full(shape, rng.choice([torch.nan, torch.inf, 3e38])),
        lambda: torch.zeros(1).expand(rng.choice([2, 10**6, 10**13])),
        lambda: torch.zeros(1).expand(1 << 31, 1 << 31),
        lambda: torch.zeros(shape, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.nn.Parameter(torch.randn(shape)),
        lambda: rng.choice([None, "text", 10**5000, -1, 1.5, float("nan"), [1], {"a": {}}, {1: 2}, b"bytes"]),
    ]
    return rng.choice(kinds)()


def odd_state(states: dict[str, State], rng: random.Random) -> State:
    """A state with one to three oddities, at any place."""
    state = {
        key: dict(value) if isinstance(value, dict) else value
        for key, value in states[rng.choice(list(states))].items()
    }
    for _ in range(rng.choice([1, 1, 2, 3])):
        place = rng.choice([state, *(value for value in state.values() if isinstance(value, dict))])
        name = rng.choice(list(place)) if place else "model"
        match rng.randrange(6):
            case 0:
                place[odd_name(rng)] = place.get(name, 1)
            case 1:
                place[odd_name(rng)] = odd_tensor(rng)
            case 2:
                place[name] = odd_tensor(rng)
            case 3:
                place.pop(name, None)
            case 4:
                place[rng.choice([7, -1, 10**4500, None, 1.5, (1, 2)])] = odd_tensor(rng)
            case _:
                wrapper = rng.choice(["module.", "_orig_mod.", "a.", "backbone.trunk.", "\x1b."])
                for key in [key for key in place if isinstance(key, str) and rng.random() < rng.choice([0.1, 1.0])]:
                    place[wrapper + key] = place.pop(key)
    return state


def test_odd_contents_are_refused_or_give_what_was_saved(states: dict[str, State], tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    path = tmp_path / "model.pth"
    for seed in range(SEED, SEED + FILES):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = odd_state(states, rng)
            try:
                torch.save(state, path, _use_new_zipfile_serialization=rng.random() < 0.7)
            except (RuntimeError, ValueError, NotImplementedError):  # torch cannot write it, so nobody can hand it in
                counts["not writable"] += 1
                continue
        try:
            trunk = build_hiera("tiny", **TINY)
            report = outcome(lambda trunk=trunk: load_weights(trunk, path))
            counts["refused" if isinstance(report, InputError) else "accepted, and right"] += 1
            if not isinstance(report, InputError):
                assert str(report).isprintable()
                check_values(trunk, state, report.resampled)
            outcome(lambda: load_classifier(path))
            outcome(lambda: check_training_state(read_weight_file(path), str(path), ("iteration",)))
            contents = outcome(lambda: read_contents(path))
            if not isinstance(contents, InputError):
                assert all(line.isprintable() for line in outcome(lambda c=contents: describe(c)).splitlines())
                target = rng.choice(TARGETS)
                converted = outcome(lambda c=contents, t=target: convert(c, t))
                if not isinstance(converted, InputError):
                    outcome(lambda c=converted: write(c, tmp_path / "out.pth", overwrite=True))
        except BaseException as error:
            raise AssertionError(f"HIERA_DET_FUZZ_SEED={seed}: {error!r}") from error
    print(f"\n{FILES} odd files from seed {SEED}: {dict(counts)}")
    assert counts["refused"] > FILES / 5
    assert counts["accepted, and right"] > FILES / 20


def check_values(trunk: torch.nn.Module, state: State, resampled: tuple[str, ...]) -> None:
    """Each tensor of the trunk is one of the file's, by a name that ends like its own."""
    saved = [
        (key, value)
        for level in (state, *(value for value in state.values() if isinstance(value, dict)))
        for key, value in level.items()
        if isinstance(key, str) and type(value) in (Tensor, torch.nn.Parameter) and not value.is_meta
    ]
    for name, tensor in trunk.state_dict().items():
        if name in " ".join(resampled):
            continue
        alike = [value for key, value in saved if key.endswith(name) and value.shape == tensor.shape]
        assert any(torch.equal(value.float(), tensor) for value in alike if value.is_floating_point()), name
