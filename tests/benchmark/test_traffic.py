"""Counting: what single layers move is known; trunks and detectors are counted, and what follows on paper."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hiera_det.benchmark.catalogue import GPUS
from hiera_det.benchmark.detector_traffic import count_detector_traffic
from hiera_det.benchmark.plan import format_plan
from hiera_det.benchmark.traffic import Traffic, count_step, count_traffic, format_traffic
from hiera_det.modeling.fast import paths

CASE = (64, 64, 2)
CONFIG = str(Path(__file__).parents[2] / "configs" / "quick_start.yaml")


def test_a_linear_layer_moves_what_it_reads_and_writes() -> None:
    """64 rows of 8 channels to 16: two products and the bias's sum in the backward pass."""
    layer, rows = nn.Linear(8, 16, device="meta"), torch.empty(64, 8, device="meta", requires_grad=True)
    rows_, weight, bias, out = 64 * 8, 8 * 16, 16, 64 * 16
    forward = count_step(layer, lambda: [layer(rows.detach())], gradients=False)
    assert forward == (1, 4 * (rows_ + weight + bias + out), 0, 2 * 64 * 8 * 16)
    backward = 2 * (rows_ + weight + out) + out + bias
    both = count_step(layer, lambda: [layer(rows)], gradients=True)
    assert both == (4, 4 * (rows_ + weight + bias + out + backward), 4 * rows_, 3 * 2 * 64 * 8 * 16)


def test_views_are_free_and_what_overwrites_reads_and_writes() -> None:
    x = torch.empty(6, 4, device="meta")
    views = count_step(nn.Identity(), lambda: [x.view(4, 6).t()[1:].unbind(0)[0], torch.empty_like(x)], False)
    assert views == (0, 0, 0, 0)
    assert count_step(nn.Identity(), lambda: [torch.ops.aten.gelu_(x)], False) == (1, 2 * 4 * 24, 0, 0)
    rows = torch.tensor([1, 2], device="meta")
    assert count_step(nn.Identity(), lambda: [x.index_fill_(0, rows, 0)], False) == (1, 4 * 2 * 4, 0, 0)


def test_attention_is_one_kernel_each_way_and_spelled_out_with_a_mask() -> None:
    q = torch.empty(2, 3, 64, 8, device="meta", requires_grad=True)
    attend = partial(F.scaled_dot_product_attention, q, q, q)
    size, products = 4 * q.numel(), 2 * q.numel() * 64
    assert count_step(nn.Identity(), lambda: [attend()], gradients=False) == (1, 4 * size, 0, 2 * products)
    kernels, _, kept, flop = count_step(nn.Identity(), lambda: [attend()], gradients=True)
    assert kernels == 1 + 1 + 2  # the gradients of the three uses of q are added
    assert (kept, flop) == (2 * size, 7 * products)
    masked = count_step(nn.Identity(), lambda: [attend(torch.ones(64, 64, dtype=torch.bool, device="meta"))], False)
    assert masked[0] > 3


def test_the_trunk_is_counted_as_it_runs_with_functions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for plain in (False, True):
        monkeypatch.setattr(paths, "PLAIN", plain)
        counts.append(count_traffic("hiera_det_windowed", "tiny", (320, 320, 1), "train", "float32"))
    assert counts[0].moved < counts[1].moved
    monkeypatch.setattr(paths, "PLAIN", False)
    with torch.device("cpu"):  # as torch.set_default_device has it
        assert paths.records_eagerly(torch.ones(1, requires_grad=True))


@pytest.mark.parametrize("task", ["forward", "train"])
def test_ours_is_counted_beside_peers_of_the_same_attention(task: str) -> None:
    counts = [count_traffic(name, "tiny", CASE, task, "float32") for name in ("hiera_det_windowed", "timm_windowed")]
    halves = count_traffic("timm_windowed", "tiny", CASE, task, "bfloat16")
    assert halves.kernels == counts[1].kernels
    assert halves.moved == pytest.approx(counts[1].moved / 2, rel=0.01)
    assert (counts[0].kept == 0) == (task == "forward")
    cells = [line.split(" | ") for line in format_traffic(counts, "float32", "h100").splitlines()[-2:]]
    assert float(cells[0][5]) == pytest.approx(counts[0].moved / counts[1].moved, abs=1e-3)
    assert cells[1][5] == ""


@pytest.mark.parametrize("task", ["detector-inference", "detector-train"])
def test_a_detector_is_more_than_its_trunk(task: str) -> None:
    found = count_detector_traffic(CONFIG, CASE, task, "bfloat16")
    trunk = count_traffic("hiera_det", "tiny", CASE, "train" if task == "detector-train" else "forward", "bfloat16")
    assert found.model == "quick_start"
    assert found.kernels > trunk.kernels
    assert (found.kept == 0) == (task == "detector-inference")


def test_the_roofline_adds_products_to_memory_or_waits_for_launches() -> None:
    gpu = GPUS["h100"]
    busy = Traffic("a", "train", CASE, 1, int(3e9), 1, int(7e11), 1)
    assert busy.seconds(gpu) == pytest.approx(1e-3 + 1e-3)
    assert Traffic("a", "train", CASE, 1000, 1, 1, 1, 1).seconds(gpu) == pytest.approx(4e-3)


def test_a_plan_sends_each_gradient_twice_and_hides_it_in_the_backward_pass() -> None:
    step = Traffic("mine", "detector-train", (1024, 1024, 2), 1, int(3e10), 1, int(7e12), 100_000_000)  # 20 ms
    rows = [line.strip("| ").split(" | ") for line in format_plan([step], "h100").splitlines()[4:]]
    assert [row[2:4] for row in rows] == [["8", "ddp"], ["8", "fsdp"], ["64", "ddp"], ["64", "fsdp"]]
    assert [row[4] for row in rows] == ["0.70", "1.05", "0.79", "1.18"]  # of 0.4 GB of float32
    # 29.5 ms at 40 GB/s, of which 13.3 hide.
    assert [row[6] for row in rows] == ["100%", "100%", "76%", "55%"]
    assert "on paper" in format_plan([step], "h100")
    assert format_plan([Traffic("mine", "detector-inference", CASE, 1, 1, 0, 1, 1)], "h100") == ""
