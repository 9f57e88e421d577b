"""Trunk and pyramid for a detector of one's own, in plain PyTorch."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from hiera_det import FPN, HieraFPN, InputError, get_param_groups, hiera_classifier, hiera_tiny
from hiera_det.adapters import fpn as fpn_module
from hiera_det.engine import optimizer

SMALL = {"embed_dim": 16, "depths": (1, 1, 2, 1), "out_channels": 16}


def photos() -> list[torch.Tensor]:
    """Images of two sizes, neither of which the trunk takes."""
    return [torch.randint(256, (3, 60, 90)), torch.randint(256, (3, 64, 50), dtype=torch.uint8)]


def test_images_of_any_size_give_the_maps_of_trunk_and_neck() -> None:
    fpn = HieraFPN("tiny", **SMALL).eval()
    images = photos()
    batch = torch.zeros(2, 3, 64, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (fpn.trunk.pixel_mean, fpn.trunk.pixel_std))
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = (image - mean) / std
    found = fpn(images)
    expected = fpn.neck(fpn.trunk(batch))
    assert found.image_sizes == [(60, 90), (64, 50)]
    assert found.padded_size == (64, 96)
    assert [*found.maps] == ["p2", "p3", "p4", "p5", "p6"]
    for name, level in found.maps.items():
        assert torch.equal(level, expected[name])
        assert level.shape[1:] == (16, -(-64 // found.strides[name]), -(-96 // found.strides[name]))
        assert found.channels[name] == 16


def test_images_of_0_to_1_and_batches_are_the_same_images() -> None:
    fpn = HieraFPN("tiny", **SMALL).eval()
    of_one = HieraFPN(fpn.trunk, out_channels=16, pixel_max=1.0).eval()
    of_one.neck = fpn.neck
    image = torch.randint(256, (1, 3, 32, 64))
    torch.testing.assert_close(of_one(image / 255).maps["p2"], fpn([image[0]]).maps["p2"])


@pytest.mark.parametrize(
    ("levels", "top"), [(("p2",), "pool"), (("p4", "p6"), "pool"), (("p3", "p4", "p5", "p6", "p7"), "conv")]
)
def test_every_parameter_has_a_gradient_whatever_the_levels(levels: tuple[str, ...], top: str) -> None:
    fpn = HieraFPN("tiny", levels=levels, top=top, **SMALL)
    sum(level.square().sum() for level in fpn(photos()).maps.values()).backward()
    assert not [name for name, parameter in fpn.named_parameters() if parameter.grad is None]


def in_two(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    fpn = DistributedDataParallel(HieraFPN("tiny", levels=("p3", "p5"), **SMALL))
    for _ in range(2):  # a parameter without a gradient would end the second
        sum(level.square().sum() for level in fpn([torch.full((3, 40, 40), rank)]).maps.values()).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in fpn.parameters()])
    other = norm.clone()
    torch.distributed.all_reduce(other)
    torch.testing.assert_close(other, 2 * norm)
    torch.distributed.destroy_process_group()


def test_two_processes_train_it_without_a_search_for_unused_parameters(tmp_path: Path) -> None:
    mp.start_processes(in_two, (str(tmp_path / "store"),), nprocs=2, start_method="fork")


def test_large_images_are_attended_to_in_windows_as_in_the_configs() -> None:
    options = HieraFPN("large", embed_dim=16).trunk.options
    assert options.window_size == (8, 4, 16, 8)
    assert options.global_blocks == (23, 33, 43)
    assert options.window_padding == "mask"
    assert HieraFPN("tiny", windowed=False).trunk.options.window_size is None
    trunk = hiera_tiny(embed_dim=16)
    assert HieraFPN(trunk, levels=("p3",)).trunk is trunk


def test_frozen_parts_are_in_no_group() -> None:
    fpn = HieraFPN("tiny", **SMALL)
    fpn.freeze(1)
    listed = {id(p) for group in get_param_groups(fpn, 1e-3) for p in group["params"]}
    assert listed == {id(p) for p in fpn.parameters() if p.requires_grad}
    assert id(fpn.trunk.blocks[0].attn.qkv.weight) not in listed


def test_learning_rates_fall_from_the_last_block_to_the_stem() -> None:
    fpn = HieraFPN("tiny", **SMALL)
    rates, decays = {}, {}
    for group in get_param_groups(fpn, 1.0, weight_decay=0.1, layer_decay=0.5):
        rates |= dict.fromkeys(group["params"], group["lr"])
        decays |= dict.fromkeys(group["params"], group["weight_decay"])
    assert rates[fpn.neck.lateral["p2"][0].weight] == 1.0
    assert [rates[block.attn.qkv.weight] for block in fpn.trunk.blocks] == [2.0**-power for power in (5, 4, 3, 2, 1)]
    assert rates[fpn.trunk.pos_embed] == rates[fpn.trunk.patch_embed.proj.weight] == 2.0**-6
    assert decays[fpn.trunk.pos_embed] == decays[fpn.trunk.blocks[0].norm1.weight] == 0
    assert decays[fpn.neck.lateral["p2"][0].weight] == 0.1
    classifier = hiera_classifier("tiny", 2, embed_dim=16)
    full = {
        p for group in get_param_groups(classifier, 1.0, layer_decay=0.5) if group["lr"] == 1 for p in group["params"]
    }
    assert full == {*classifier.norm.parameters(), *classifier.head.parameters()}


def test_the_examples_of_the_docstrings_are_true() -> None:
    for module in (fpn_module, optimizer):
        failed, tried = doctest.testmod(module)
        assert tried > 1
        assert not failed


def test_what_cannot_be_used_is_refused() -> None:
    fpn = HieraFPN("tiny", **SMALL)
    with pytest.raises(InputError, match=r"images \[1, 32, 32\]: give a batch or list of \[3, H, W\]"):
        fpn([torch.zeros(1, 32, 32)])
    with pytest.raises(InputError, match=r"images \[\]"):
        fpn([])
    with pytest.raises(InputError, match=r"\['drop_path_rate'\] are for a size by name"):
        HieraFPN(fpn.trunk, drop_path_rate=0.1)
    with pytest.raises(InputError, match=r"pixel_mean .*: give one value for each of 4 channels"):
        HieraFPN("tiny", in_channels=4, **SMALL)
    with pytest.raises(InputError, match=r"layer_decay 0\.5: there is no Hiera trunk"):
        get_param_groups(FPN(fpn.trunk.feature_info, 16), 1.0, layer_decay=0.5)
    with pytest.raises(InputError, match="layer_decay 0: give a factor"):
        get_param_groups(fpn, 1.0, layer_decay=0)
