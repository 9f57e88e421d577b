"""Graphs that leave PyTorch: the windowed trunk, whose windows do not divide the image, at other sizes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hiera_det import Hiera

FIELDS = {
    "embed_dim": 16,
    "num_heads": 1,
    "depths": (1, 1, 2, 1),
    "out_features": ("stage3",),
    "window_size": (8, 4, 14, 7),
    "window_padding": "mask",
}


class Maps(nn.Module):
    """A trunk's maps as a tuple, without their names."""

    def __init__(self, trunk: Hiera) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.trunk(images).values())


def test_windows_are_counted_right_in_onnx_at_every_size(tmp_path: Path) -> None:
    import onnxruntime

    trunk = Maps(Hiera(**FIELDS).eval())
    side = {axis: 32 * torch.export.Dim(f"units{axis}", min=1, max=40) for axis in (2, 3)}
    with torch.no_grad():
        program = torch.onnx.export(
            trunk,
            (torch.randn(2, 3, 256, 288),),
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=8)} | side},
            opset_version=18,
            verbose=False,
        )
        program.save(tmp_path / "trunk.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "trunk.onnx")
        for shape in ((2, 3, 256, 288), (1, 3, 64, 96), (1, 3, 320, 224)):
            images = torch.randn(shape)
            got = session.run(None, {session.get_inputs()[0].name: images.numpy()})
            for mine, map_ in zip(got, trunk(images), strict=True):
                torch.testing.assert_close(torch.from_numpy(mine), map_, rtol=1e-4, atol=1e-4)
