"""Position embeddings at other sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hiera_det.modeling.position import resize_pos_embed


def test_pos_embed_at_pretrain_size_is_unchanged() -> None:
    table = torch.randn(1, 56 * 56, 8)
    assert torch.equal(resize_pos_embed(table, (56, 56), (56, 56)).flatten(1, 2), table)


def test_pos_embed_at_another_size_is_bicubic_without_antialias() -> None:
    table = torch.randn(1, 56 * 56, 8)
    image = table.view(1, 56, 56, 8).permute(0, 3, 1, 2)
    for size in ((64, 96), (24, 16)):
        expected = F.interpolate(image, size=size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
        assert torch.equal(resize_pos_embed(table, (56, 56), size), expected)
