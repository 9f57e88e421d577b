"""The number format of evaluation and prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hiera_det.d2.config.load import load_config
from hiera_det.d2.predict.precision import autocast, check_autocast
from hiera_det.errors import InputError

CONFIG = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t_1x.yaml")


@pytest.mark.parametrize(("name", "dtype"), [("", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_computed_in_the_named_format(name: str, dtype: torch.dtype) -> None:
    with autocast(load_config(CONFIG, ["MODEL.DEVICE", "cpu", "TEST.AUTOCAST", name])):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "device", "says"),
    [
        ("float16", "cpu", r"TEST\.AUTOCAST float16 needs a GPU: on the CPU choose "),
    ],
)
def test_a_format_that_cannot_be_is_refused(name: str, device: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        autocast(load_config(CONFIG, ["MODEL.DEVICE", device, "TEST.AUTOCAST", name]))


def test_an_unknown_format_is_refused() -> None:
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    cfg.TEST.AUTOCAST = "bf16"
    with pytest.raises(InputError, match=r"TEST\.AUTOCAST 'bf16': choose float32, bfloat16, float16"):
        autocast(cfg)


def test_half_precision_is_for_gpus() -> None:
    check_autocast(load_config(CONFIG, ["MODEL.DEVICE", "cuda:1", "TEST.AUTOCAST", "float16"]))
