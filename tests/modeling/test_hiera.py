"""The trunk's behaviour: shapes, subsets of outputs, options and refusals."""

from __future__ import annotations

import pytest
import torch

from hiera_det import build_hiera, hiera_base, hiera_tiny
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import STAGES, Hiera

SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)}


def small(**overrides: object) -> Hiera:
    """A trunk of the real structure that takes milliseconds."""
    return Hiera(**(SMALL | overrides))


#: Trunk without norm and classifier, 56 x 56 position embedding, in millions (authors' models, counted).
MILLIONS = {"tiny": 27.14, "small": 34.24, "base": 50.75, "base_plus": 69.00, "large": 212.58, "huge": 670.73}


@pytest.mark.parametrize(("size", "millions"), MILLIONS.items())
def test_published_sizes_have_the_published_parameters(size: str, millions: float) -> None:
    with torch.device("meta"):
        trunk = build_hiera(size)
    assert sum(p.numel() for p in trunk.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (224, 224), (96, 32)])
def test_maps_have_the_stated_shapes(height: int, width: int) -> None:
    trunk = small()
    maps = trunk(torch.randn(2, 3, height, width))
    assert tuple(maps) == STAGES
    for feature in trunk.feature_info:
        expected = (2, feature.channels, height // feature.stride, width // feature.stride)
        assert maps[feature.name].shape == expected


@pytest.mark.parametrize(
    "names", [("stage1",), ("stage2",), ("stage4",), ("stage3", "stage1"), ("stage2", "stage4"), STAGES]
)
def test_a_subset_of_outputs_equals_the_full_ones_and_trains_every_parameter(names: tuple[str, ...]) -> None:
    full = small()
    part = small(out_features=names)
    part.load_state_dict({k: v for k, v in full.state_dict().items() if k in part.state_dict()})
    images = torch.randn(1, 3, 64, 64)
    maps = part(images)
    assert tuple(maps) == names == tuple(f.name for f in part.feature_info)
    for name, map_ in maps.items():
        torch.testing.assert_close(map_, full(images)[name])
    sum(map_.square().sum() for map_ in maps.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_evaluation_without_gradients_equals_evaluation_with_them() -> None:
    trunk = small().eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        fast = trunk(images)
    for name, map_ in trunk(images).items():
        torch.testing.assert_close(fast[name], map_)


def test_inference_leaves_what_a_block_hook_has_kept() -> None:
    trunk = small().eval()
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in trunk.blocks:
        block.register_forward_hook(lambda _m, _i, out: kept.append((out, out.clone())))
    with torch.inference_mode():
        trunk(torch.randn(1, 3, 64, 64))
    assert len(kept) == len(trunk.blocks)
    assert all(torch.equal(out, copy) for out, copy in kept)


def test_position_cache_follows_new_weights_and_sizes() -> None:
    trunk, other = small().eval(), small().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        trunk(images)
        trunk(torch.randn(1, 3, 96, 64))
    trunk.load_state_dict(other.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(trunk(images)["stage4"], other(images)["stage4"])
        trunk.pos_embed.data = trunk.pos_embed.data + 1.0
        assert not torch.allclose(trunk(images)["stage1"], other(images)["stage1"])


def test_checkpointing_changes_memory_only() -> None:
    plain, saving = small(drop_path_rate=0.5), small(drop_path_rate=0.5, use_checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 64, 64)
    losses = []
    for trunk in (plain, saving):
        torch.manual_seed(1)
        loss = trunk(images)["stage4"].square().mean()
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(*losses)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(saving.get_parameter(name).grad, parameter.grad)


def test_drop_path_drops_whole_images_in_training_only() -> None:
    trunk = small(drop_path_rate=0.9)
    images = torch.randn(1, 3, 64, 64).expand(8, -1, -1, -1)
    rates = [block.drop_path.rate for block in trunk.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.9, 6).tolist())
    trained = trunk(images)["stage4"]
    assert not torch.allclose(trained, trained[:1].expand_as(trained))
    evaluated = trunk.eval()(images)["stage4"]
    torch.testing.assert_close(evaluated, evaluated[:1].expand_as(evaluated))


def test_stages_can_be_asked_for_by_number() -> None:
    trunk = small(out_features=(4, 2))
    assert tuple(trunk(torch.randn(1, 3, 32, 32))) == trunk.out_features == ("stage4", "stage2")


def test_an_unpooled_last_stage_keeps_the_stride_of_the_one_before() -> None:
    trunk = small(q_pool=2)
    assert [(f.channels, f.stride) for f in trunk.feature_info] == [(16, 4), (32, 8), (64, 16), (128, 16)]
    assert trunk(torch.randn(1, 3, 64, 96))["stage4"].shape == (1, 128, 4, 6)


def test_images_must_be_whole_mask_units_of_the_size_asked_for() -> None:
    assert small(mask_unit_size=4, q_pool=2)(torch.randn(1, 3, 48, 80))["stage4"].shape == (1, 128, 3, 5)
    with pytest.raises(InputError, match="width must be a multiple of 64; pad to 128"):
        small(mask_unit_size=16)(torch.zeros(1, 3, 64, 96))


def test_evaluation_of_a_trunk_whose_first_stage_attends_globally() -> None:
    trunk, images = small(window_size=(0, 4, 0, 0)).eval(), torch.randn(1, 3, 64, 64)
    expected = trunk(images)["stage4"]
    with torch.inference_mode():
        torch.testing.assert_close(trunk(images)["stage4"], expected)


def test_other_numbers_of_input_channels() -> None:
    assert small(in_channels=5)(torch.randn(1, 5, 32, 32))["stage4"].shape == (1, 128, 1, 1)


def test_any_field_of_a_size_can_be_overridden() -> None:
    trunk = hiera_tiny(embed_dim=32, depths=(1, 1, 1, 1), out_features=("stage3",))
    assert [(f.name, f.channels, f.stride) for f in trunk.feature_info] == [("stage3", 128, 16)]
    assert len(trunk.blocks) == 3


def test_autocast_gives_maps_near_those_of_full_precision() -> None:
    trunk = small().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        full = trunk(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = trunk(images)
    for name, map_ in full.items():
        assert (half[name].float() - map_).abs().max() < 0.03 * map_.abs().max()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 512, 700), "image 512x700: width must be a multiple of 32; pad to 704"),
        ((1, 3, 33, 64), "image 33x64: height must be a multiple of 32; pad to 64"),
        ((1, 3, 0, 64), "height must be a multiple of 32"),
        ((1, 1, 64, 64), r"expected \[B, 3, H, W\]"),
        ((3, 64, 64), r"expected \[B, 3, H, W\]"),
    ],
)
def test_images_that_cannot_be_taken_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))
    with pytest.raises(InputError, match="images of type ndarray: give a tensor"):
        small()(torch.zeros(1, 3, 64, 64).numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_features": ("res2",)}, "stage1, stage2, stage3, stage4"),
        ({"out_features": ()}, "one or more of"),
        ({"out_features": "stage4"}, "one or more of"),
        ({"out_features": ("stage1", "stage1")}, "each once"),
        ({"depths": (1, 2, 3)}, "four numbers"),
        ({"num_heads": 3}, "multiple of num_heads 3"),
        ({"num_heads": (1, 2)}, r"num_heads \(1, 2\): give one number, which doubles per stage, or four"),
        ({"num_heads": (1, 2, 4, 5)}, r"num_heads \(1, 2, 4, 5\) at each stage \(channels \[16, 32, 64, 128\]\)"),
        ({"dim_mul": 1.0}, "dim_mul 1.0: must be above 1"),
        ({"dim_mul": 1.3}, "dim_mul 1.3: must be above 1 and give whole channels from 16"),
        ({"dim_mul": 1.5, "project_shortcut": False}, "dim_mul 1.5: without a projected shortcut the channels double"),
        ({"q_pool": 4}, "q_pool 4: must be 0 to 3"),
        ({"q_stride": 0}, "q_stride 0: give one side of a square"),
        ({"q_stride": (2, 2)}, r"q_stride \(2, 2\): give one side of a square"),
        ({"mask_unit_size": (8, 4)}, r"mask_unit_size \(8, 4\): give one side of a square"),
        ({"mask_unit_size": 12}, "mask_unit_size 12: must be a multiple of 8, which q_pool 3 poolings of q_stride 2"),
        ({"mask_unit_size": 16, "window_size": (8, 4, 0, 0)}, r"multiples of \(16, 8, 4, 2\), 0 for global"),
        ({"out_features": (0, 4)}, "one or more of stage1"),
        ({"drop_path_rate": 1.0}, "below 1"),
        ({"pretrain_size": 225}, "multiple of 4"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**arguments)


def test_unknown_size_lists_the_sizes() -> None:
    with pytest.raises(InputError, match="tiny, small, base, base_plus, large, huge"):
        build_hiera("giant")


def test_the_example_of_the_readme() -> None:
    trunk = hiera_base(out_features=("stage1", "stage2", "stage3", "stage4"))
    maps = trunk(torch.zeros(1, 3, 64, 64))
    assert {name: tuple(map_.shape[1:]) for name, map_ in maps.items()} == {
        "stage1": (96, 16, 16),
        "stage2": (192, 8, 8),
        "stage3": (384, 4, 4),
        "stage4": (768, 2, 2),
    }


DET = {"pos_embed": "absolute_win", "window_size": (8, 4, 4, 2), "depths": (1, 2, 4, 2), "global_blocks": (5,)}


def test_a_stages_first_block_has_the_window_of_the_stage_before() -> None:
    windows = [block.attn.window for block in small(**DET).blocks]  # sides in mask units of 8, 4, 2 and 1 tokens
    assert windows == [1, 1, 1, 1, 2, 0, 2, 2, 2]
    plain = [block.attn.window for block in small(depths=(1, 2, 2, 2)).blocks]
    assert plain == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("fields", [DET, {"layer_scale": True, "project_shortcut": False}, {"frames": 4}])
def test_every_parameter_of_a_variation_gets_a_gradient(fields: dict[str, object]) -> None:
    trunk = small(**fields)
    images = torch.randn(2, 3, 4, 64, 96) if "frames" in fields else torch.randn(2, 3, 64, 96)
    maps = trunk(images)
    sum((map_ * torch.randn_like(map_)).sum() for map_ in maps.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters())
    assert trunk.no_weight_decay() == {name for name, _ in trunk.named_parameters() if "pos_embed" in name}


def test_windows_that_cover_the_image_give_what_global_attention_gives() -> None:
    windowed, plain = small(window_size=(8, 4, 4, 2)).eval(), small().eval()
    plain.load_state_dict(windowed.state_dict())
    images = torch.randn(1, 3, 64, 64)  # 4 x 4 tokens in stage 3, 2 x 2 in stage 4
    for name, map_ in windowed(images).items():
        torch.testing.assert_close(map_, plain(images)[name])


@pytest.mark.parametrize("stages", [True, ("stage1",), ("stage2", "stage3")])
def test_checkpointing_stages_of_a_windowed_trunk_changes_memory_only(stages: bool | tuple[str, ...]) -> None:
    plain, saving = small(**DET), small(use_checkpoint=stages, **DET)
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 96)
    kept, gradients = [], []
    for trunk in (plain, saving):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.numel()), x)[1], lambda x: x
        ):
            loss = sum(map_.square().sum() for map_ in trunk(images).values())
        kept.append(sum(sizes))
        loss.backward()
        gradients.append({name: p.grad for name, p in trunk.named_parameters()})
    assert kept[1] < kept[0]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("fields", [{}, DET])
def test_cached_positions_follow_their_parameters(fields: dict[str, object]) -> None:
    trunk = small(**fields).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = trunk(images)["stage1"]
        for name in trunk.no_weight_decay():
            getattr(trunk, name).add_(1.0)
            after = trunk(images)["stage1"]
            assert (after - before).abs().max() > 1e-3, name
            before = after


@pytest.mark.parametrize("fields", [{}, DET | {"window_padding": "mask"}, {"frames": 4}, {"layer_scale": True}])
def test_every_tensor_is_made_where_the_images_are(fields: dict[str, object]) -> None:
    with torch.device("meta"):
        trunk, images = small(**fields), torch.randn(2, 3, *((4,) if "frames" in fields else ()), 64, 96)
    sum(map_.sum() for map_ in trunk(images).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in trunk.parameters())
    with torch.no_grad():
        assert all(map_.is_meta for map_ in trunk(images).values())


def test_video_maps_have_the_stated_shapes() -> None:
    trunk = small(frames=4)
    maps = trunk(torch.randn(2, 3, 6, 64, 96))  # longer than it was built for
    for feature in trunk.feature_info:
        assert maps[feature.name].shape == (2, feature.channels, 3, 64 // feature.stride, 96 // feature.stride)


def test_a_rectangular_position_table_is_used_as_it_is() -> None:
    trunk = small(pretrain_size=(64, 96))
    assert trunk.pos_embed.shape == (1, 16 * 24, 16)
    assert torch.equal(trunk._make_positions((16, 24)).flatten(1, 2), trunk.pos_embed)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pos_embed": "absolut"}, "pos_embed 'absolut': choose one of interpolate, tile, absolute_win"),
        ({"pos_embed": "absolute_win", "pos_grid": (7,)}, r"pos_grid \(7,\): give height and width"),
        ({"pretrain_size": (64, 30)}, r"pretrain_size \(64, 30\)"),
        ({"window_size": (8, 4, 7, 7)}, r"window_size \(8, 4, 7, 7\): .* multiples of"),
        ({"window_size": (8, 4)}, r"window_size \(8, 4\): give four"),
        ({"window_size": (8, 4, 14, 7), "global_blocks": (3,)}, r"global_blocks \(3,\): 3 must .* not the first"),
        ({"window_size": (8, 4, 14, 7), "global_blocks": (6,)}, r"global_blocks \(6,\): 6 must be in 0 to 5"),
        ({"window_padding": "reflect"}, "window_padding 'reflect': choose one of zero, mask"),
        ({"use_checkpoint": ("stage5",)}, "use_checkpoint .*: give True, False or some of stage1"),
        ({"frames": 3}, "frames 3: must be 0 for images"),
        ({"frames": 4, "pos_embed": "absolute_win"}, "video trunk"),
        ({"frames": 4, "window_size": (8, 4, 14, 7)}, "video trunk"),
    ],
)
def test_a_variation_that_cannot_be_built_is_named(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        small(**fields)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 3, 5, 64, 64)])
def test_a_clip_of_another_shape_is_named(shape: tuple[int, ...]) -> None:
    says = r"expected \[B, 3, T, H, W\]" if len(shape) == 4 else "clip of 5 frames: .* multiple of 2"
    with pytest.raises(InputError, match=says):
        small(frames=4)(torch.zeros(shape))


@pytest.mark.parametrize("padding", [(32, 0), (0, 96), (224, 224)])
def test_tiled_positions_and_masked_windows_do_not_feel_padding(padding: tuple[int, int]) -> None:
    # The image is one window of stage 3; nothing attends globally, and tiled positions do not know the image's size.
    fields = {"pos_embed": "tile", "window_size": (8, 4, 14, 7), "window_padding": "mask"}
    trunk = small(**fields).eval()
    image = torch.randn(1, 3, 224, 224)
    padded = torch.nn.functional.pad(image, (0, padding[1], 0, padding[0]))
    with torch.no_grad():
        alone, inside = trunk(image), trunk(padded)
    for name, map_ in alone.items():
        torch.testing.assert_close(inside[name][..., : map_.shape[2], : map_.shape[3]], map_, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"window_size": (8, 4, 14, 7), "window_padding": "mask"}])
def test_the_first_two_stages_feel_padding_through_the_positions_only(fields: dict[str, object]) -> None:
    trunk = small(pos_embed="tile", **fields).eval()
    image = torch.randn(1, 3, 96, 160)
    padded = torch.nn.functional.pad(image, (0, 64, 0, 32))
    with torch.no_grad():
        alone, inside = trunk(image), trunk(padded)
        for name in ("stage1", "stage2"):
            map_ = alone[name]
            torch.testing.assert_close(inside[name][..., : map_.shape[2], : map_.shape[3]], map_, rtol=0, atol=1e-4)
        stretched = small(**fields).eval()
        stretched.load_state_dict(trunk.state_dict())
        map_ = stretched(image)["stage1"]
        assert (stretched(padded)["stage1"][..., : map_.shape[2], : map_.shape[3]] - map_).abs().max() > 1e-3
