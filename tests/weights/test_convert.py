"""Conversions between layouts lose nothing that the target can hold, and say what it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import hiera
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from hiera_det import build_hiera, build_hieradet, hiera_small_abswin
from hiera_det.errors import InputError
from hiera_det.weights.contents import Contents, parse
from hiera_det.weights.convert import Converted, convert, write
from hiera_det.weights.load import read_contents
from hiera_det.weights.sources import read_weight_file


def randomised(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


SMALL = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 2, 1)}


def small_official(kind: str) -> Contents:
    model = hiera.Hiera(**SMALL) if kind == "classifier" else hiera.MaskedAutoencoderHiera(q_pool=2, **SMALL)
    return parse({"model_state": randomised(model)}, "file.pth")


def official(kind: str) -> Contents:
    build = {"classifier": hiera.hiera_tiny_224, "MAE": hiera.mae_hiera_tiny_224, "video": hiera.hiera_base_16x224}
    return parse({"model_state": randomised(build[kind]())}, "file.pth")


def written(contents: Contents, to: str, path: Path) -> Contents:
    write(convert(contents, to), path)
    return read_contents(str(path))


def all_tensors(contents: Contents) -> dict[str, Tensor]:
    return contents.trunk | contents.heads


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("via", ["hf", "timm", "official"])
@pytest.mark.parametrize("kind", ["classifier", "MAE"])
def test_round_trips_are_bit_equal(kind: str, via: str, suffix: str, tmp_path: Path) -> None:
    start = small_official(kind)
    ours = written(start, "hiera_det", tmp_path / f"ours{suffix}")
    torch.testing.assert_close(all_tensors(ours), all_tensors(start), rtol=0, atol=0)
    there = written(ours, via, tmp_path / f"there{suffix}")
    back = written(there, "hiera_det", tmp_path / f"back{suffix}")
    expected = all_tensors(ours)
    if via == "timm" and kind == "MAE":  # timm has no decoder, and one place for the encoder's last norm
        renamed = {name.replace("encoder_norm", "norm"): tensor for name, tensor in expected.items()}
        expected = {name: tensor for name, tensor in renamed.items() if name in ours.trunk or name.startswith("norm.")}
        assert len(expected) == len(ours.trunk) + 2
    torch.testing.assert_close(all_tensors(back), expected, rtol=0, atol=0)


@pytest.mark.parametrize("to", ["hf", "timm", "official"])
def test_a_hieradet_comes_back_bit_equal(to: str, tmp_path: Path) -> None:
    start = parse(randomised(build_hieradet("tiny")), "file.pth")
    back = written(written(start, to, tmp_path / "there.pth"), "hiera_det", tmp_path / "back.pth")
    torch.testing.assert_close(back.trunk, start.trunk, rtol=0, atol=0)


@pytest.mark.parametrize("to", ["timm", "official"])
def test_a_video_model_comes_back_bit_equal(to: str, tmp_path: Path) -> None:
    start = official("video")
    back = written(written(start, to, tmp_path / "there.pth"), "hiera_det", tmp_path / "back.pth")
    torch.testing.assert_close(all_tensors(back), all_tensors(start), rtol=0, atol=0)


# ------------------------------------------------------------------- the other packages take what is written for them


@pytest.mark.parametrize("kind", ["classifier", "MAE", "trunk", "HieraDet"])
def test_transformers_opens_the_folder(kind: str, tmp_path: Path) -> None:
    if kind == "trunk":
        contents = parse(randomised(build_hiera("tiny")), "file.pth")
    elif kind == "HieraDet":
        contents = parse(randomised(build_hieradet("tiny")), "file.pth")
    else:
        contents = official(kind)
    files = write(convert(contents, "hf"), tmp_path / "folder")
    assert [file.name for file in files] == ["model.safetensors", "config.json"]
    model_class = {
        "classifier": transformers.HieraForImageClassification,
        "MAE": transformers.HieraForPreTraining,
        "trunk": transformers.HieraModel,
        "HieraDet": transformers.Sam2HieraDetModel,
    }[kind]
    model, info = model_class.from_pretrained(tmp_path / "folder", output_loading_info=True)
    fresh = {"pooler.layernorm.weight", "pooler.layernorm.bias"} if kind == "trunk" else set()
    assert set(info["missing_keys"]) == fresh
    assert not info["unexpected_keys"]
    values = {name: tensor for name, tensor in model.state_dict().items() if name not in fresh}
    assert len(values) == len(contents.trunk) + len(contents.heads)
    back = parse(values, "back")
    torch.testing.assert_close(back.trunk, contents.trunk, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "sam2_hiera_tiny", "hiera_small_abswin_256"])
def test_timm_opens_the_file(name: str, tmp_path: Path) -> None:
    if name == "hiera_tiny_224":
        contents = official("classifier")
    else:
        trunk = build_hieradet("tiny") if "sam2" in name else hiera_small_abswin()
        contents = parse(randomised(trunk), "file.pth")
    write(convert(contents, "timm"), tmp_path / "timm.safetensors")
    classes = 1000 if contents.heads else 0
    model = timm.create_model(name, num_classes=classes, checkpoint_path="")
    state = timm.models.load_state_dict(str(tmp_path / "timm.safetensors"))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert [key for key in missing if not key.startswith("head.norm.")] == []
    assert unexpected == []


def test_the_authors_open_the_file(tmp_path: Path) -> None:
    contents = official("MAE")
    write(convert(contents, "official"), tmp_path / "mae.pth")
    hiera.mae_hiera_tiny_224().load_state_dict(read_weight_file(tmp_path / "mae.pth")["model_state"])


def test_sam2s_names_are_its_own() -> None:
    converted = convert(parse(randomised(build_hieradet("tiny")), "file.pth"), "official")
    assert converted.container == "model"
    assert "image_encoder.trunk.blocks.0.mlp.layers.1.weight" in converted.tensors
    assert "image_encoder.trunk.pos_embed_window" in converted.tensors


# ---------------------------------------------------------------------------------------------- what has no place there


def test_a_detector_gives_its_trunk_and_lists_the_rest() -> None:
    trunk = {f"backbone.trunk.{name}": tensor for name, tensor in randomised(build_hiera("tiny")).items()}
    contents = parse({"model": trunk | {"roi_heads.box.weight": torch.zeros(1)}, "iteration": 5}, "model_final.pth")
    converted = convert(contents, "timm")
    assert converted.dropped == ("roi_heads.box.weight",)
    assert len(converted.tensors) == len(trunk)


def test_timm_drops_the_decoder_by_name() -> None:
    converted = convert(official("MAE"), "timm")
    assert len(converted.dropped) == 108
    assert all(name.startswith(("mask_token", "decoder_", "multi_scale_fusion_heads")) for name in converted.dropped)


@pytest.mark.parametrize(
    ("build", "to", "says"),
    [
        (lambda: official("video"), "hf", "transformers has no video Hiera"),
        (
            lambda: parse(hiera_small_abswin().state_dict(), "f"),
            "hf",
            "only timm and hiera_det have hiera_small_abswin",
        ),
        (lambda: parse(hiera_small_abswin().state_dict(), "f"), "official", "only timm and hiera_det"),
        (lambda: official("classifier"), "keras", "--to keras: choose one of hiera_det, official, hf, timm"),
    ],
)
def test_what_a_package_does_not_have_is_refused(build: Callable[[], Contents], to: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        convert(build(), to)


def test_unknown_tensors_are_refused() -> None:
    state = build_hiera("tiny").state_dict() | {"blocks.0.attn.rel_pos_h": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 tensors no Hiera has \(blocks\.0\.attn\.rel_pos_h\)"):
        convert(parse(state, "file.pth"), "timm")


# --------------------------------------------------------------------------------------------------------- the writing


@pytest.fixture
def converted() -> Converted:
    small = build_hiera("tiny", embed_dim=16, num_heads=1, depths=(1, 1, 1, 1))
    return convert(parse(small.state_dict(), "file.pth"), "hf")


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth"])
def test_what_is_there_is_kept_unless_told(converted: Converted, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=rf"{name} is there already"):
        write(converted, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"precious"
    write(converted, tmp_path / name, overwrite=True)
    assert len(read_weight_file(tmp_path / name)) == len(converted.tensors)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_the_old_file(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.pth").write_bytes(b"precious")

    def disk_full(data: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", disk_full)
    with pytest.raises(InputError, match=r"out\.pth: cannot be written \(the disk is full\)"):
        write(converted, tmp_path / "out.pth", overwrite=True)
    assert (tmp_path / "out.pth").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.pth"]


def test_slices_of_one_tensor_are_written_whole(tmp_path: Path) -> None:
    state = build_hiera("tiny", embed_dim=16, num_heads=1, depths=(1, 1, 1, 1)).state_dict()
    both = torch.randn(2, *state["pos_embed"].shape)
    contents = parse(state | {"pos_embed": both[1]}, "file.pth")
    write(convert(contents, "timm"), tmp_path / "out.safetensors")
    assert torch.equal(read_weight_file(tmp_path / "out.safetensors")["pos_embed"], both[1])


@pytest.mark.parametrize(
    ("name", "says"),
    [("out.h5", r"config\.json needs a published size"), ("folder", r"config\.json needs a published size")],
)
def test_a_folder_needs_a_published_size(converted: Converted, name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        write(converted, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_only_transformers_takes_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name a file that ends in one of \.safetensors"):
        write(convert(official("classifier"), "timm"), tmp_path / "folder")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", r"lacks 1 tensors of its trunk \(blocks\.1\.mlp\.fc1\.bias\)"),
        ("no positions", r"lacks 1 tensors of its trunk \(pos_embed\)"),
        ("NaN", r"has 1 tensors with NaN or infinite values \(blocks\.1\.mlp\.fc1\.bias\)"),
    ],
)
def test_a_trunk_that_is_not_whole_is_not_converted(fault: str, says: str) -> None:
    state = build_hiera("tiny", embed_dim=16, num_heads=1, depths=(1, 1, 1, 1)).state_dict()
    name = "pos_embed" if fault == "no positions" else "blocks.1.mlp.fc1.bias"
    if fault == "NaN":
        state[name][2] = torch.nan
    else:
        del state[name]
    with pytest.raises(InputError, match=rf"file\.pth {says}"):
        convert(parse(state, "file.pth"), "hf")


def test_detectron2_gets_the_trunk_behind_our_backbones_name(tmp_path: Path) -> None:
    state = build_hiera("tiny", embed_dim=16, num_heads=1, depths=(1, 1, 1, 1)).state_dict()
    head = {"norm.weight": torch.ones(128)}
    converted = convert(parse(state | head, "file.pth"), "detectron2")
    assert converted.dropped == ("norm.weight",)
    with pytest.raises(InputError, match=r"detectron2 reads no safetensors"):
        write(converted, tmp_path / "out.safetensors")
    write(converted, tmp_path / "out.pth")
    assert set(torch.load(tmp_path / "out.pth")["model"]) == {f"backbone.trunk.{name}" for name in state}
    assert set(parse(read_weight_file(tmp_path / "out.pth"), "out.pth").trunk) == set(state)


def test_a_detector_goes_to_detectron2_whole() -> None:
    trunk = build_hiera("tiny", embed_dim=16, num_heads=1, depths=(1, 1, 1, 1)).state_dict()
    state = {f"backbone.trunk.{name}": tensor for name, tensor in trunk.items()} | {"roi_heads.w": torch.ones(2)}
    converted = convert(parse({"model": state, "trainer": {}}, "model_final.pth"), "detectron2")
    assert converted.tensors.keys() == state.keys()
    assert not converted.dropped
