"""The trunks of `hiera_det.benchmark.catalogue`, built for one image size, each with a way to ask for its maps.

Hiera's implementations get the same random weights. The other architectures are what users would pick instead: their
weights are their own random ones, so that only their speed is compared. An image size is (height, width) in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hiera_det.modeling.position import resize_pos_embed
from hiera_det.modeling.variants import get_variant, spread_global_blocks
from hiera_det.weights.contents import parse
from hiera_det.weights.convert import convert
from hiera_det.weights.layouts import SAM2
from hiera_det.zoo import build_hiera

__all__ = ["Trunk", "build_trunk"]

GRID = (56, 56)  # 224 / 4: the size in tokens that the weights' position embedding is learned at


@dataclass(frozen=True)
class Trunk:
    """A built model in evaluation mode, and how to get its maps ``[B, C, H, W]`` from images."""

    module: nn.Module
    maps: Callable[[nn.Module, Tensor], Sequence[Tensor]]


def random_state(size: str, image: tuple[int, int], resized: bool) -> dict[str, Tensor]:
    """The weights of all Hieras, in the authors' names; ``resized`` gives position embeddings of the image's size."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build_hiera(size).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.05 * torch.randn(shape, generator=generator) + (1.0 if re.search(r"norm\d\.weight", name) else 0.0)
        for name, shape in shapes.items()
    }
    if resized:
        state["pos_embed"] = resize_pos_embed(state["pos_embed"], GRID, (image[0] // 4, image[1] // 4)).flatten(1, 2)
    return state


def load(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load the trunk's tensors into a peer; what it has besides, a head, stays as it is."""
    outcome = module.load_state_dict(state, strict=False)
    if outcome.unexpected_keys:
        raise RuntimeError(f"{type(module).__name__} does not know {outcome.unexpected_keys[:3]}")
    return module.eval()


def our_maps(module: nn.Module, images: Tensor) -> list[Tensor]:
    """This project's trunks give a dict."""
    return list(module(images).values())


def intermediates(module: nn.Module, images: Tensor) -> list[Tensor]:
    """Timm's way to the maps."""
    return module.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")  # type: ignore[operator]


def build_ours(size: str, image: tuple[int, int]) -> Trunk:
    """This project's trunk, which takes any image size."""
    module = build_hiera(size)
    module.load_state_dict(random_state(size, image, resized=False))
    return Trunk(module.eval(), our_maps)


def windows_of(size: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """SAM 2's windows and global blocks; for the sizes that it does not have, by the same rule."""
    window_size = (8, 4, 16, 8) if size in ("large", "huge") else (8, 4, 14, 7)
    return window_size, spread_global_blocks(get_variant(size).depths)


def build_ours_windowed(size: str, image: tuple[int, int], with_global_blocks: bool = True) -> Trunk:
    """This project's trunk with windows in stages 3 and 4, and three global blocks or none."""
    window_size, global_blocks = windows_of(size)
    module = build_hiera(size, window_size=window_size, global_blocks=global_blocks if with_global_blocks else ())
    module.load_state_dict(random_state(size, image, resized=False))
    return Trunk(module.eval(), our_maps)


def build_official(size: str, image: tuple[int, int]) -> Trunk:
    """The authors' package, built for the image size."""
    import hiera

    module = load(getattr(hiera, f"hiera_{size}_224")(input_size=image), random_state(size, image, resized=True))
    return Trunk(
        module,
        lambda module, images: [map_.permute(0, 3, 1, 2) for map_ in module(images, return_intermediates=True)[1]],
    )


def build_timm(size: str, image: tuple[int, int]) -> Trunk:
    """Timm's Hiera, built for the image size."""
    import timm

    module = timm.create_model(f"hiera_{size}_224", pretrained=False, img_size=image)
    return Trunk(load(module, random_state(size, image, resized=True)), intermediates)


def build_transformers(size: str, image: tuple[int, int]) -> Trunk:
    """Transformers' HieraModel, built for the image size; its HieraBackbone gives scrambled maps."""
    from transformers import HieraConfig, HieraModel

    variant = get_variant(size)
    config = HieraConfig(
        embed_dim=variant.embed_dim,
        depths=list(variant.depths),
        num_heads=[variant.num_heads << stage for stage in range(len(variant.depths))],
        image_size=list(image),
    )
    state = convert(parse(random_state(size, image, resized=True), "the benchmark's weights"), "hf").tensors
    module = load(HieraModel(config, add_pooling_layer=False), state)

    def maps(module: nn.Module, images: Tensor) -> list[Tensor]:
        hidden = module(images, output_hidden_states=True).reshaped_hidden_states
        return [map_.permute(0, 3, 1, 2) for map_ in hidden[1:]]  # the first is the embedding

    return Trunk(module, maps)


def build_timm_windowed(size: str, image: tuple[int, int]) -> Trunk:
    """Timm's HieraDet, SAM 2's trunk, at this size's depths and with the same position embedding."""
    from timm.models.hieradet_sam2 import HieraDet

    variant, (window_size, global_blocks) = get_variant(size), windows_of(size)
    module = HieraDet(
        embed_dim=variant.embed_dim,
        num_heads=variant.num_heads,
        stages=variant.depths,
        global_pos_size=GRID,
        window_spec=window_size,
        global_att_blocks=global_blocks,
        num_classes=0,
    )
    return Trunk(load(module, _hieradet_state(size, image)), intermediates)


def build_sam2(size: str, image: tuple[int, int]) -> Trunk:
    """SAM 2's own trunk, at this size's depths and with the same position embedding."""
    from sam2.modeling.backbones.hieradet import Hiera

    variant, (window_size, global_blocks) = get_variant(size), windows_of(size)
    module = Hiera(
        embed_dim=variant.embed_dim,
        num_heads=variant.num_heads,
        stages=variant.depths,
        window_pos_embed_bkg_spatial_size=GRID,
        window_spec=window_size,
        global_att_blocks=global_blocks,
    )
    state = {SAM2.from_ours(name, variant.depths): x for name, x in _hieradet_state(size, image).items()}
    return Trunk(load(module, state), lambda module, images: module(images))


def _hieradet_state(size: str, image: tuple[int, int]) -> dict[str, Tensor]:
    """The weights as HieraDets take them: their position embedding is a map and a part that repeats, here zeros."""
    state = random_state(size, image, resized=False)
    state["pos_embed"] = state["pos_embed"].reshape(1, *GRID, -1).permute(0, 3, 1, 2)
    state["pos_embed_window"] = torch.zeros(1, state["pos_embed"].shape[1], 8, 8)
    return state


def build_pyramid(name: str, size: str, image: tuple[int, int], **fields: object) -> Trunk:
    """A convolutional network of timm's: maps of strides 4, 8, 16 and 32. Hiera's size does not matter."""
    import timm

    module = timm.create_model(name, pretrained=False, features_only=True, **fields)
    return Trunk(module.eval(), lambda module, images: module(images))


def build_swin(name: str, size: str, image: tuple[int, int]) -> Trunk:
    """Timm's Swin, built for the image size, without the stochastic depth that it has from the start."""
    trunk = build_pyramid(name, size, image, img_size=image, drop_path_rate=0.0)
    return Trunk(trunk.module, lambda module, images: [map_.permute(0, 3, 1, 2) for map_ in module(images)])


def build_windowed_vit(size: str, image: tuple[int, int]) -> Trunk:
    """ViTDet's and SAM's windowed ViT-B from timm, without SAM's neck: one map of stride 16."""
    import timm

    module = timm.create_model("samvit_base_patch16", pretrained=False, img_size=image, num_classes=0)
    return Trunk(
        module.eval(),
        lambda module, images: module.forward_intermediates(images, indices=1, intermediates_only=True),  # type: ignore[operator]
    )


BUILDERS: dict[str, Callable[[str, tuple[int, int]], Trunk]] = {
    "hiera_det": build_ours,
    "official": build_official,
    "transformers": build_transformers,
    "timm": build_timm,
    "hiera_det_windowed": build_ours_windowed,
    "timm_windowed": build_timm_windowed,
    "sam2": build_sam2,
    "hiera_det_windows_only": partial(build_ours_windowed, with_global_blocks=False),
    "resnet50": partial(build_pyramid, "resnet50", out_indices=(1, 2, 3, 4)),
    "swin_t": partial(build_swin, "swin_tiny_patch4_window7_224"),
    "swin_b": partial(build_swin, "swin_base_patch4_window7_224"),
    "convnext_s": partial(build_pyramid, "convnext_small"),
    "vit_b_windowed": build_windowed_vit,
}


def build_trunk(name: str, size: str, image: tuple[int, int]) -> Trunk:
    """Build a model of `hiera_det.benchmark.catalogue.TRUNKS` for Hiera's size and an image size.

    Weights are random, those of all Hieras the same.
    """
    return BUILDERS[name](size, image)
