"""Every model runs forward and backward on a device that is not the CPU: meta tensors, of which nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hiera_det import FPN, SimpleFeaturePyramid, build_hiera, build_hieradet, hiera_classifier, hiera_mae, intermediates
from hiera_det.modeling.hiera import STAGES, Hiera
from hiera_det.modeling.variants import HIERADET_VARIANTS, VARIANTS

#: The authors' settings for clips, of 4 frames.
CLIPS = {"frames": 4}
WINDOWED = {"window_size": (8, 4, 14, 7), "global_blocks": (-1,)}


class Elsewhere(TorchDispatchMode):
    """Refuses tensors of the CPU, but for single numbers, which any device takes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            assert not isinstance(x, Tensor) or x.is_meta or x.ndim == 0, f"{func} makes a tensor on {x.device}"
        return out


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Built without data, in training mode; tensors that are made later follow no default device."""
    with torch.device("meta"):
        return build().train()


def run(model: nn.Module, *inputs: Tensor, **more: Any) -> None:
    """Forward and backward, eagerly and without gradients; every parameter gets a gradient on its device."""
    with Elsewhere():
        outputs = [x for x in tree_leaves(model(*inputs, **more)) if isinstance(x, Tensor) and x.is_floating_point()]
        outputs = [x for x in outputs if x.requires_grad]
        torch.autograd.backward(outputs, [torch.empty_like(x) for x in outputs])
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
        model.eval()
        with torch.inference_mode():
            model(*inputs, **more)


def images(*size: int) -> Tensor:
    return torch.empty(2, 3, *size, device="meta")


@pytest.mark.parametrize("size", VARIANTS)
def test_trunks(size: str) -> None:
    run(on_meta(lambda: build_hiera(size, drop_path_rate=0.2)), images(96, 160))


@pytest.mark.parametrize("size", HIERADET_VARIANTS)
def test_sam2s_trunks_with_windows_beyond_the_edge(size: str) -> None:
    run(on_meta(lambda: build_hieradet(size)), images(288, 320))


OPTIONS: list[dict[str, Any]] = [
    WINDOWED | {"window_padding": "mask", "layer_scale": True},
    {"pos_embed": "tile"},
    {"pos_embed": "absolute_win"},
    {"project_shortcut": False, "use_checkpoint": True},
    {"recompute_gelu": STAGES},
]


@pytest.mark.parametrize("fields", OPTIONS, ids=lambda fields: "-".join(fields))
def test_options_of_the_trunk(fields: dict[str, Any]) -> None:
    small = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 3, 1)}
    if "global_blocks" in fields:
        fields = fields | {"global_blocks": (5,)}
    run(on_meta(lambda: Hiera(**(small | fields))), images(288, 256))


def test_video() -> None:
    run(on_meta(lambda: build_hiera("tiny", **CLIPS)), images(4, 64, 96))


@pytest.mark.parametrize("clips", [False, True])
def test_classifiers(clips: bool) -> None:
    fields = CLIPS | {"pretrain_size": 64} if clips else {}
    run(on_meta(lambda: hiera_classifier("tiny", **fields)), images(4, 64, 64) if clips else images(96, 64))


@pytest.mark.parametrize("clips", [False, True])
def test_autoencoders(clips: bool) -> None:
    fields = {"pretrain_size": 128} | (CLIPS if clips else {})
    run(on_meta(lambda: hiera_mae("tiny", **fields)), images(4, 128, 128) if clips else images(64, 96))


@pytest.mark.parametrize("neck", [FPN, SimpleFeaturePyramid])
def test_necks(neck: Callable[..., nn.Module]) -> None:
    trunk = on_meta(lambda: build_hiera("tiny"))
    info = trunk.feature_info if neck is FPN else trunk.feature_info[2]  # type: ignore[union-attr]
    maps = {name: x.detach().requires_grad_() for name, x in trunk(images(64, 96)).items()}
    run(on_meta(lambda: neck(info)), maps)


def test_what_is_inside() -> None:
    trunk = on_meta(lambda: build_hiera("tiny", window_size=(8, 4, 14, 7)))
    with Elsewhere(), torch.no_grad():
        intermediates(trunk, images(96, 128), attentions=True)
