"""The authors' layout: recognised by its keys, taken whole or refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hiera_det import build_hiera
from hiera_det.errors import InputError
from hiera_det.weights.layouts import is_official, select_trunk

SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 1, 2, 1)}


def trunk_state(**overrides: object) -> dict[str, Tensor]:
    return build_hiera("tiny", **(SMALL | overrides)).state_dict()


def test_only_a_dict_under_model_state_is_the_authors() -> None:
    assert is_official({"model_state": trunk_state(), "epoch": 1})
    assert not is_official({"model": trunk_state()})
    assert not is_official({"model_state": torch.zeros(1)})


def test_classifier_and_decoder_are_left_out_and_listed() -> None:
    extras = ("norm.weight", "head.projection.bias", "mask_token", "decoder_pos_embed", "decoder_blocks.0.norm1.bias")
    file = {name: torch.randn_like(tensor) for name, tensor in trunk_state().items()}
    taken = select_trunk({"model_state": file | dict.fromkeys(extras, torch.zeros(1))}, trunk_state(), "a.pth")
    assert taken.dropped == extras
    torch.testing.assert_close(taken.tensors, file, rtol=0, atol=0)


def test_a_trunk_of_early_stages_takes_its_blocks_only() -> None:
    early = trunk_state(out_features=("stage1", "stage2"))
    taken = select_trunk({"model_state": trunk_state()}, early, "a.pth")
    assert set(taken.tensors) == set(early)
    assert all(name.startswith("blocks.") for name in taken.dropped)


def test_another_size_is_told_by_its_embed_dim() -> None:
    with pytest.raises(InputError, match=r"a\.pth .* embed dim is 32, the model's is 16; set MODEL\.HIERA") as caught:
        select_trunk({"model_state": trunk_state(embed_dim=32)}, trunk_state(), "a.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["missing", "mis-shaped", "unknown"])
def test_what_does_not_fit_is_counted_and_named(fault: str) -> None:
    file = trunk_state()
    name = "blocks.1.attn.qkv.weight"
    if fault == "missing":
        del file[name]
    elif fault == "mis-shaped":
        file[name] = file[name][:-1]
    else:
        name = "surprise.weight"
        file[name] = torch.zeros(1)
    with pytest.raises(InputError, match=rf"a\.pth .* 1 {fault} tensors \({name}\)") as caught:
        select_trunk({"model_state": file}, trunk_state(), "a.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("pos_embed", "text"), ("patch_embed.proj.weight", 3), (7, torch.ones(1))])
def test_an_entry_that_is_no_named_tensor_is_named(name: object, value: object) -> None:
    with pytest.raises(InputError, match=rf"a\.pth: entry {name!r} is a {type(value).__name__}"):
        select_trunk({"model_state": trunk_state() | {name: value}}, trunk_state(), "a.pth")
