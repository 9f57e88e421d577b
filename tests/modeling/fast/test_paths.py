"""Where kernels are chosen: in one file, by facts of the processor, and off by one switch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hiera_det import modeling
from hiera_det.modeling.fast import paths
from hiera_det.modeling.fast.paths import Case, Kernel, Processor, choose

ROOT = Path(modeling.__file__).parent
QUESTIONS = re.compile(r"is_cuda|device\.type|is_grad_enabled|is_compiling|get_num_threads|autocast")


def test_the_mathematics_asks_nothing_of_device_or_mode() -> None:
    outside = [path for path in ROOT.rglob("*.py") if path.parent.name != "fast"]
    assert len(outside) > 10
    asking = [path.name for path in outside if QUESTIONS.search(path.read_text())]
    assert asking == []
    assert QUESTIONS.search((ROOT / "fast" / "paths.py").read_text())


def test_an_unknown_processor_takes_pytorchs_operations() -> None:
    assert Processor("", 0, "DEFAULT") not in paths.TABLE
    assert Processor("GenuineIntel", 6, "AVX512") not in paths.TABLE


@pytest.mark.parametrize(("setting", "empty"), [("plain", True), ("", False)])
def test_the_switch_leaves_everything_to_pytorch(setting: str, empty: bool) -> None:
    code = (
        "from hiera_det.modeling.fast import paths; import torch\n"
        "here = paths.TABLE.get(paths.processor(), frozenset())\n"
        "print(paths.WINS == (frozenset() if paths.PLAIN else here), paths.PLAIN)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HIERA_DET_PATHS": setting},
    )
    assert done.stdout.split() == ["True", str(empty)]


@pytest.mark.usefixtures("fast_paths")
def test_a_path_is_taken_for_plain_numbers_of_a_type_that_wins_only() -> None:
    x = torch.zeros(1, 2, 3)
    with torch.no_grad():
        assert choose(paths.Path.SLABS, x) is Kernel.FAST
        assert choose(paths.Path.SLABS, x.double()) is Kernel.PLAIN
        assert choose(paths.Path.SLABS, x.to("meta")) is Kernel.PLAIN
        assert choose(paths.Path.SLABS, x, x.to("meta")) is Kernel.PLAIN
        assert torch.func.vmap(lambda row: row + (choose(paths.Path.SLABS, row) is Kernel.FAST))(x).sum() == 0
    assert choose(paths.Path.SLABS, x) is Kernel.PLAIN  # gradients are recorded
    assert Case(paths.Path.SLABS, torch.float32) in paths.WINS


def test_a_layer_is_untouched_only_as_it_was_built() -> None:
    class Other(nn.Linear):
        pass

    layers = [nn.Linear(2, 2) for _ in range(4)]
    assert all(paths.untouched(layer) for layer in layers)
    layers[0].register_forward_hook(lambda *_: None)
    layers[1].register_full_backward_hook(lambda *_: None)
    layers[2].forward = lambda x: x  # as accelerate does
    nn.utils.parametrizations.weight_norm(layers[3])
    assert not any(paths.untouched(layer) for layer in [*layers, Other(2, 2)])
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not paths.untouched(nn.Linear(2, 2))
    handle.remove()
    assert paths.untouched(nn.Linear(2, 2))
