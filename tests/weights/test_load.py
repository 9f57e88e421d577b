"""Loading: every tensor is loaded, resampled, dropped by name, or an error that says why."""

from __future__ import annotations

from pathlib import Path

import hiera
import pytest
import torch
from torch import Tensor

from hiera_det import (
    Hiera,
    HieraForClassification,
    HieraMAE,
    build_hiera,
    build_hieradet,
    hiera_base,
    hiera_classifier,
    hiera_mae,
    hiera_small_abswin,
)
from hiera_det.errors import InputError
from hiera_det.modeling.position import resize_pos_embed
from hiera_det.weights.contents import parse
from hiera_det.weights.load import LoadReport, fit, load_weights, read_contents

SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)}


def small(**fields: object) -> Hiera:
    return build_hiera("tiny", **(SMALL | fields))


def randomised(trunk: Hiera) -> dict[str, Tensor]:
    return {name: torch.randn_like(tensor) for name, tensor in trunk.state_dict().items()}


def load(state: object, trunk: Hiera, folder: Path, new_head: bool = False) -> LoadReport:
    torch.save(state, folder / "file.pth")
    return load_weights(trunk, str(folder / "file.pth"), new_head)


@pytest.mark.parametrize("kind", ["classifier", "MAE"])
def test_a_published_file_leaves_nothing_of_the_trunk_random(kind: str, tmp_path: Path) -> None:
    theirs = (hiera.hiera_tiny_224 if kind == "classifier" else hiera.mae_hiera_tiny_224)().state_dict()
    trunk = build_hiera("tiny")
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.fill_(torch.nan)
    report = load({"model_state": theirs}, trunk, tmp_path)
    loaded = trunk.state_dict()
    assert set(report.loaded) == set(loaded)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, theirs[name]), name
    assert set(report.dropped) == set(theirs) - set(loaded)
    assert len(report.loaded) + len(report.dropped) == len(theirs)
    assert not report.resampled
    assert not report.initialised


def test_the_report_is_one_line_with_counts_and_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hiera_det.weights"):
        load({"model_state": hiera.mae_hiera_tiny_224().state_dict()}, build_hiera("tiny"), tmp_path)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"{tmp_path / 'file.pth'}: hiera_tiny in the authors' Hiera layout (MAE pretraining, with its decoder): "
        "153 tensors loaded; 0 resampled; 110 dropped (decoder_blocks 96, multi_scale_fusion_heads 4, encoder_norm 2, "
        "decoder_embed 2, decoder_norm 2, decoder_pred 2, ...); 0 newly initialised"
    )


def test_weights_by_keyword_are_those_of_the_file(tmp_path: Path) -> None:
    state = randomised(small())
    torch.save(state, tmp_path / "file.pth")
    trunk = build_hiera("tiny", weights=str(tmp_path / "file.pth"), **SMALL)
    torch.testing.assert_close(dict(trunk.state_dict()), state, rtol=0, atol=0)


def test_half_precision_files_fill_a_float32_trunk(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in randomised(small()).items()}
    trunk = small()
    load(state, trunk, tmp_path)
    assert all(p.dtype == torch.float32 for p in trunk.parameters())
    assert torch.equal(trunk.pos_embed, state["pos_embed"].float())


# ------------------------------------------------------------------------------------------ what is adapted on the way


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_stem_for_other_channels_is_adapted_and_said(channels: int, tmp_path: Path) -> None:
    state, trunk = randomised(small()), small(in_channels=channels)
    report = load(state, trunk, tmp_path)
    weight, ours = state["patch_embed.proj.weight"], trunk.patch_embed.proj.weight
    if channels == 1:
        torch.testing.assert_close(ours, weight.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(ours, torch.cat([weight, weight], 1)[:, :channels] * (3 / channels))
    assert f"3 channels to {channels}" in str(report)
    assert len(report.loaded) == len(state)


def test_an_adapted_stem_answers_grey_as_before(tmp_path: Path) -> None:
    full, grey, six = small(), small(in_channels=1), small(in_channels=6)
    for trunk in (grey, six):
        load(full.state_dict(), trunk, tmp_path)
    image = torch.randn(1, 1, 64, 64)
    expected = full(image.expand(-1, 3, -1, -1))["stage4"]
    torch.testing.assert_close(grey(image)["stage4"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(six(image.expand(-1, 6, -1, -1))["stage4"], expected, rtol=1e-4, atol=1e-5)


def test_positions_of_another_size_are_resampled_and_said(tmp_path: Path) -> None:
    state, trunk = randomised(small(pretrain_size=128)), small()
    report = load(state, trunk, tmp_path)
    expected = resize_pos_embed(state["pos_embed"], (32, 32), (56, 56)).flatten(1, 2)
    assert torch.equal(trunk.pos_embed, expected)
    assert report.resampled == ("pos_embed 32x32 to 56x56",)


def test_both_parts_of_a_video_models_positions_are_resampled(tmp_path: Path) -> None:
    state, trunk = randomised(small(frames=8, pretrain_size=64)), small(frames=4)
    report = load(state, trunk, tmp_path)
    assert report.resampled == ("pos_embed_spatial 16x16 to 56x56", "pos_embed_temporal 4 to 2")
    temporal = state["pos_embed_temporal"]
    torch.testing.assert_close(trunk.pos_embed_temporal, (temporal[:, ::2] + temporal[:, 1::2]) / 2)


def test_the_global_part_of_absolute_window_positions_is_resampled(tmp_path: Path) -> None:
    state = randomised(small(pos_embed="absolute_win", pos_grid=(14, 14)))
    trunk = small(pos_embed="absolute_win", pos_grid=(7, 7))
    report = load(state, trunk, tmp_path)
    assert report.resampled == ("pos_embed 14x14 to 7x7",)
    assert torch.equal(trunk.pos_embed_window, state["pos_embed_window"])


@pytest.mark.parametrize("grid", [(56, 56), (7, 7)])
def test_a_plain_table_is_split_for_absolute_window_positions_and_said(grid: tuple[int, int], tmp_path: Path) -> None:
    plain = small()
    torch.nn.init.normal_(plain.pos_embed)
    split = small(pos_embed="absolute_win", pos_grid=grid)
    report = load(plain.state_dict(), split, tmp_path)
    assert "1 adapted (pos_embed 56x56 split into its mean 8x8 unit and the rest)" in str(report)
    units = plain.pos_embed.view(7, 8, 7, 8, 16)
    torch.testing.assert_close(split.pos_embed_window[0].permute(1, 2, 0), units.mean(dim=(0, 2)))
    positions = split._make_positions((56, 56))
    if grid == (56, 56):
        torch.testing.assert_close(positions.flatten(1, 2), plain.pos_embed)
        assert not report.resampled
    else:
        assert report.resampled == ("pos_embed 56x56 to 7x7",)


def test_a_rectangular_table_needs_its_size(tmp_path: Path) -> None:
    state = randomised(small(pretrain_size=(64, 96)))
    with pytest.raises(InputError, match=r"384 positions, which is no square; .* pretrain_size=\(height, width\)"):
        load(state, small(), tmp_path)
    trunk = small(pretrain_size=(64, 96))
    assert not load(state, trunk, tmp_path).resampled
    assert torch.equal(trunk.pos_embed, state["pos_embed"])


def test_a_table_of_as_many_positions_in_other_rows_is_resampled_where_the_file_says_so(tmp_path: Path) -> None:
    tall, wide = {"pretrain_size": (128, 64)}, {"pretrain_size": (64, 128)}
    state, trunk = randomised(small(**tall)), small(**wide)
    report = load({"model_state": state, "config": tall}, trunk, tmp_path)
    assert report.resampled == ("pos_embed 32x16 to 16x32",)
    assert torch.equal(trunk.pos_embed, resize_pos_embed(state["pos_embed"], (32, 16), (16, 32)).flatten(1, 2))
    same = small(**tall)
    assert not load({"model_state": state, "config": tall}, same, tmp_path).resampled
    assert torch.equal(same.pos_embed, state["pos_embed"])
    other = small()
    assert load({"model_state": state, "config": tall}, other, tmp_path).resampled == ("pos_embed 32x16 to 56x56",)


def test_a_square_number_of_positions_in_a_model_that_is_no_square_is_said(tmp_path: Path) -> None:
    state, trunk = randomised(small(pretrain_size=128)), small(pretrain_size=(64, 256))
    report = load(state, trunk, tmp_path)
    assert report.adapted == ("pos_embed taken as 16x64, though the file does not say that it is no square",)
    assert torch.equal(trunk.pos_embed, state["pos_embed"])
    assert not load(state, small(pretrain_size=128), tmp_path).adapted
    said = {"model_state": state, "config": {"pretrain_size": 128}}
    assert load(said, trunk, tmp_path).resampled == ("pos_embed 32x32 to 16x64",)


def test_the_decoders_table_follows_the_recorded_size(tmp_path: Path) -> None:
    tall, wide = {"pretrain_size": (128, 64)}, {"pretrain_size": (64, 128)}
    state, model = randomised(small_mae(**tall)), small_mae(**wide)
    report = load({"model_state": state, "config": tall}, model, tmp_path)
    assert report.resampled == ("pos_embed 32x16 to 16x32", "decoder_pos_embed 8x4 to 4x8")


def test_a_trunk_of_early_stages_takes_its_blocks_only(tmp_path: Path) -> None:
    state, early = randomised(small()), small(out_features=("stage1", "stage2"))
    report = load(state, early, tmp_path)
    assert set(report.loaded) == set(early.state_dict())
    assert all(name.startswith("blocks.") for name in report.dropped)
    assert len(report.loaded) + len(report.dropped) == len(state)


# --------------------------------------------------------------------------------------------------- heads and decoders


def small_classifier(num_classes: int = 5, **fields: object) -> HieraForClassification:
    return hiera_classifier("tiny", num_classes, **(SMALL | fields))


def small_mae(**fields: object) -> HieraMAE:
    decoder = {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 4}
    return hiera_mae("tiny", **(SMALL | decoder | fields))


def names_in(model: Hiera, *words: str) -> set[str]:
    return {name for name in model.state_dict() if name.startswith(words)}


def test_a_classifier_takes_its_own_file_with_the_head(tmp_path: Path) -> None:
    state, model = randomised(small_classifier()), small_classifier()
    report = load(state, model, tmp_path)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert set(report.loaded) == set(state)
    assert not report.dropped
    assert not report.initialised


@pytest.mark.parametrize("file", [small, small_mae])
def test_a_file_without_a_classifier_leaves_the_head_fresh_and_says_so(file: type, tmp_path: Path) -> None:
    state, model = randomised(file()), small_classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load(state, model, tmp_path)
    fresh = {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    assert set(report.initialised) == fresh
    assert str(report).endswith("4 newly initialised (norm 2, head 2)")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in fresh else state[name]), name


def test_other_classes_are_refused_unless_a_new_head_is_asked_for(tmp_path: Path) -> None:
    state, model = randomised(small_classifier(7)), small_classifier(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    says = r"file\.pth does not fit: its head has 7 classes, the model's 5; build it with num_classes=7, or .* new_head"
    with pytest.raises(InputError, match=says) as caught:
        load(state, model, tmp_path)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    report = load(state, model, tmp_path, new_head=True)
    assert set(report.initialised) == set(report.dropped) == names_in(model, "head.")
    assert torch.equal(model.norm.weight, state["norm.weight"])
    assert torch.equal(model.head.projection.weight, before["head.projection.weight"])


def test_a_new_head_of_as_many_classes_is_new_too(tmp_path: Path) -> None:
    state = randomised(small_classifier(5))
    torch.save(state, tmp_path / "file.pth")
    model = small_classifier(5, weights=str(tmp_path / "file.pth"), new_head=True)
    assert model.head.projection.weight.abs().max() < 1e-3
    assert torch.equal(model.norm.bias, state["norm.bias"])


def test_an_mae_takes_its_own_file_with_the_decoder(tmp_path: Path) -> None:
    state, model = randomised(small_mae()), small_mae()
    report = load(state, model, tmp_path)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert not report.dropped
    assert not report.initialised


@pytest.mark.parametrize("frames", [0, 16])
def test_an_mae_takes_every_tensor_of_the_authors_file(frames: int, tmp_path: Path) -> None:
    theirs = (hiera.mae_hiera_base_16x224 if frames else hiera.mae_hiera_tiny_224)().state_dict()
    model = hiera_mae("base" if frames else "tiny", frames=frames)
    report = load({"model_state": theirs}, model, tmp_path)
    torch.testing.assert_close(dict(model.state_dict()), dict(theirs), rtol=0, atol=0)
    assert len(report.loaded) == len(theirs)


def test_a_classifiers_file_leaves_the_decoder_fresh_and_the_classifier_out(tmp_path: Path) -> None:
    model = small_mae()
    report = load(randomised(small_classifier()), model, tmp_path)
    trunk = set(small().state_dict())
    assert set(report.loaded) == trunk
    assert set(report.initialised) == set(model.state_dict()) - trunk
    assert set(report.dropped) == {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}


def test_the_decoders_positions_of_another_size_are_resampled_and_said(tmp_path: Path) -> None:
    state, model = randomised(small_mae(pretrain_size=128)), small_mae()
    report = load(state, model, tmp_path)
    assert report.resampled == ("pos_embed 32x32 to 56x56", "decoder_pos_embed 8x8 to 14x14")
    expected = resize_pos_embed(state["decoder_pos_embed"], (8, 8), (14, 14)).flatten(1, 2)
    assert torch.equal(model.decoder_pos_embed, expected)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ({"decoder_depth": 1}, r"12 missing \(decoder_blocks\.1\."),
        ({"decoder_depth": 3}, r"12 unexpected \(decoder_blocks\.2\."),
        ({"decoder_embed_dim": 16}, r"mis-shaped \(.*mask_token \[1, 1, 16\] for \[1, 1, 32\]"),
        ({"q_pool": 3}, r"mis-shaped \(.*multi_scale_fusion_heads"),
    ],
)
def test_another_decoder_is_counted_and_named(file: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load(small_mae(**file).state_dict(), small_mae(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_head_is_an_error(tmp_path: Path) -> None:
    state = randomised(small_classifier())
    del state["head.projection.bias"]
    with pytest.raises(InputError, match=r"1 missing \(head\.projection\.bias\)"):
        load(state, small_classifier(), tmp_path)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("fault", ["missing", "mis-shaped", "unexpected"])
def test_what_does_not_fit_is_counted_and_named_and_nothing_is_loaded(fault: str, tmp_path: Path) -> None:
    state, trunk = randomised(small()), small()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    name = "blocks.1.attn.qkv.weight"
    if fault == "missing":
        del state[name]
    elif fault == "mis-shaped":
        state[name] = state[name][:-1]
    else:
        name = "blocks.0.attn.rel_pos_h"
        state[name] = torch.zeros(1)
    with pytest.raises(InputError, match=rf"file\.pth does not fit: 1 {fault} \({name}.*\); it was read as") as caught:
        load(state, trunk, tmp_path)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(dict(trunk.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["blocks.1.attn.qkv.weight", "head.projection.bias"])
def test_what_is_not_finite_is_named_also_where_the_model_has_no_place_for_it(
    name: str, value: float, tmp_path: Path
) -> None:
    state = randomised(small_classifier())
    state[name].view(-1)[3] = value
    for model in (small(), small_classifier()):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        says = rf"file\.pth does not fit: 1 with NaN or infinite values \({name}\); take one from before its training"
        with pytest.raises(InputError, match=says):
            load(state, model, tmp_path)
        torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_paths_are_taken_everywhere(tmp_path: Path) -> None:
    state, path = randomised(small()), tmp_path / "file.pth"
    torch.save(state, path)
    trunk = small()
    load_weights(trunk, path)
    assert torch.equal(trunk.pos_embed, state["pos_embed"])
    assert torch.equal(build_hiera("tiny", weights=path, **SMALL).pos_embed, state["pos_embed"])
    assert read_contents(tmp_path).source == str(path)


def test_names_from_a_file_cannot_move_the_cursor(tmp_path: Path) -> None:
    state = randomised(small()) | {"head\x1b[2J.\nx": torch.zeros(1)}
    report = load({f"trunk.{name}" if "head" not in name else name: t for name, t in state.items()}, small(), tmp_path)
    assert str(report).isprintable()
    assert "head\\x1b[2J" in str(report)


def test_another_size_is_told_by_both_names() -> None:
    with torch.device("meta"):
        large = build_hiera("large").state_dict()
    contents = parse({name: torch.zeros(1).expand(tensor.shape) for name, tensor in large.items()}, "file.pth")
    says = "this file is hiera_large: embed dim 144; the model is hiera_base: 96; choose the model of the file's size"
    with pytest.raises(InputError, match=says):
        fit(contents, hiera_base())


def test_sizes_of_equal_width_are_told_apart_by_their_depths(tmp_path: Path) -> None:
    says = r"this file is hiera_tiny: depths \(1, 2, 7, 2\); the model is hiera_base: \(2, 3, 16, 3\)"
    with pytest.raises(InputError, match=says):
        load(build_hiera("tiny").state_dict(), hiera_base(), tmp_path)


@pytest.mark.parametrize(
    ("file", "model", "says"),
    [
        ({"frames": 16}, {}, "it is a video model: build the trunk with frames=16"),
        ({}, {"frames": 16}, "it is an image model, and the trunk is for video"),
        ({"pos_embed": "absolute_win"}, {}, "whose position embedding has a window part"),
        ({"layer_scale": True}, {}, "its residual branches are scaled: set layer_scale True"),
        ({}, {"layer_scale": True}, r"12 missing \(blocks\.0\.ls1\.gamma, "),
    ],
)
def test_a_trunk_of_another_kind_is_told_what_to_build(
    file: dict[str, object], model: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load(small(**file).state_dict(), small(**model), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_hieradet_file_names_the_function_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it is hieradet_tiny, .* hiera_det\.hieradet_tiny\(\), or .* its config"):
        load(build_hieradet("tiny").state_dict(), build_hiera("tiny"), tmp_path)


def test_timms_resampling_is_asked_for(tmp_path: Path) -> None:
    state = hiera_small_abswin().state_dict()
    state["pos_embed_win"] = state.pop("pos_embed_window")
    with pytest.raises(InputError, match="set pos_antialias True"):
        load(state, hiera_small_abswin(pos_antialias=False), tmp_path)
