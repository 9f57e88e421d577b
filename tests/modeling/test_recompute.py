"""GELUs that are computed anew: the same maps and gradients, and less that is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import STAGES, Hiera


def small(**fields: Any) -> Hiera:
    return Hiera(embed_dim=16, num_heads=1, depths=(1, 2, 2, 1), drop_path_rate=0.3, **fields)


def kept(trunk: Hiera, images: torch.Tensor) -> int:
    """Bytes that the backward pass keeps."""
    held: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        trunk(images)
    return sum(held.values())


@pytest.mark.parametrize("more", [{}, {"use_checkpoint": ("stage3",)}, {"window_size": (8, 4, 6, 3)}])
def test_maps_and_gradients_are_the_same_and_less_is_kept(more: dict[str, Any]) -> None:
    plain, saving = small(**more), small(recompute_gelu=STAGES, **more)
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 96, 64)
    for trunk in (plain, saving):
        torch.manual_seed(1)
        maps = trunk(images)
        torch.stack([map_.square().mean() for map_ in maps.values()]).sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(saving.get_parameter(name).grad, parameter.grad, msg=name)
    assert kept(saving, images) < 0.9 * kept(plain, images)


def test_what_stands_in_the_place_of_a_layer_is_called() -> None:
    trunk = small(recompute_gelu=("stage1",))

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    images = torch.randn(1, 3, 64, 64)
    before = trunk(images)["stage1"]
    mlp = trunk.blocks[0].mlp
    own, mlp.fc2 = mlp.fc2, Doubled(mlp.fc2.in_features, mlp.fc2.out_features)
    mlp.fc2.load_state_dict(own.state_dict())
    after = trunk(images)["stage1"]
    assert not torch.allclose(before, after)
    after.sum().backward()
    assert mlp.fc2.weight.grad is not None


@pytest.mark.parametrize("stages", ["stage1", ("stage5",)])
def test_other_stages_are_refused(stages: Any) -> None:
    with pytest.raises(InputError, match="recompute_gelu"):
        small(recompute_gelu=stages)
