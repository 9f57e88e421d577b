"""Graphs that leave PyTorch: made at one size, right at others, whether windows divide the image or cover it."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hiera_det import Hiera
from hiera_det.errors import InputError

WINDOWS = {"window_size": (8, 4, 14, 7), "global_blocks": (3,)}
TRUNKS = {
    "masked windows": WINDOWS | {"window_padding": "mask"},
    "zero padding": WINDOWS | {"window_padding": "zero", "pos_embed": "absolute_win", "pos_grid": (7, 7)},
    "global": {"pos_embed": "tile", "pretrain_size": 96},
}
#: Small enough for one window, landscape and portrait, divided by windows, and not.
SIZES = [(1, 3, 96, 64), (2, 3, 64, 96), (1, 3, 256, 512), (1, 3, 448, 448), (1, 3, 320, 224)]
Run = Callable[[Tensor], tuple[Tensor, ...]]


class Maps(nn.Module):
    """A trunk's maps as a tuple, without their names."""

    def __init__(self, fields: dict[str, object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = Hiera(embed_dim=16, num_heads=1, depths=(1, 1, 3, 1), out_features=("stage2", "stage4"), **fields)
        for name in self.trunk.no_weight_decay():
            nn.init.normal_(self.trunk.get_parameter(name))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.trunk(images).values())


def by_export(maps: Maps) -> Run:
    units = {axis: 32 * torch.export.Dim(f"units{axis}", min=2, max=40) for axis in (2, 3)}
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=8)} | units}
    return torch.export.export(maps, (torch.randn(2, 3, 256, 320),), dynamic_shapes=dynamic).module()


def by_fixed_export(maps: Maps) -> Run:
    """A graph of one size, taken again for each."""
    return lambda images: torch.export.export(maps, (images,)).module()(images)


def by_trace(maps: Maps) -> Run:
    return torch.jit.trace(maps, torch.randn(1, 3, 224, 224))


def by_older_onnx(maps: Maps) -> Run:
    import onnxruntime

    file = io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        *(maps, (torch.randn(1, 3, 224, 224),), file),
        dynamo=False,
        input_names=["images"],
        dynamic_axes=axes,
        opset_version=18,
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    return lambda images: tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("way", "trunk"),
    [
        *((way, trunk) for way in (by_export, by_trace) for trunk in TRUNKS),
        *((way, "masked windows") for way in (by_fixed_export, by_older_onnx)),
    ],
)
def test_a_graph_of_one_size_is_right_at_others(way: Callable[[Maps], Run], trunk: str) -> None:
    maps = Maps(TRUNKS[trunk])
    with torch.no_grad():
        run = way(maps)
        for size in SIZES[1:3] if way is by_fixed_export else SIZES:
            images = torch.randn(size)
            for mine, map_ in zip(run(images), maps(images), strict=True):
                torch.testing.assert_close(mine, map_, rtol=1e-4, atol=1e-4 * float(map_.abs().max()))


def test_scripting_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"torch\.jit\.script: .* take torch\.jit\.trace"):
        torch.jit.script(Maps({}))
