"""The trunk in timm's convention: `register` makes ``timm.create_model("hiera_det_base", features_only=True)`` work.

Tags name weights as timm's own do, ``hiera_det_base.mae``; they are loaded by `hiera_det.load_weights`. Images are of 0
to 1, normalised by ImageNet's mean and deviation, as ``model.pretrained_cfg`` says; sides are multiples of 32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.modeling.block import NORM_EPS
from hiera_det.modeling.classifier import ClassifierHead
from hiera_det.modeling.hiera import HieraBase
from hiera_det.modeling.options import STAGES, HieraOptions
from hiera_det.modeling.variants import VARIANTS
from hiera_det.weights.load import load_weights

__all__ = ["TimmHiera", "register"]

#: Tags of the published weights, and how many classes they have.
TAGS = {"mae_in1k_ft_in1k": 1000, "mae": 0}
#: What timm calls fields of `HieraOptions`.
FIELDS = {"in_chans": "in_channels", "img_size": "pretrain_size"}


def _cfg(size: str, tag: str) -> dict[str, Any]:
    """What timm records of weights."""
    return {
        "hf_hub_id": f"timm/hiera_{size}_224.{tag}",
        "num_classes": TAGS[tag],
        "input_size": (3, 224, 224),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head.projection",
        "license": "cc-by-nc-4.0",
    }


#: Where `timm.models.register_model` looks for them.
default_cfgs = generate_default_cfgs({f"hiera_det_{size}.{tag}": _cfg(size, tag) for size in VARIANTS for tag in TAGS})


class TimmHiera(HieraBase):
    """A classifier, or with ``num_classes=0`` a trunk, with the methods of timm's models.

    Parameters are named as in the authors' files and those of `hiera_det.HieraForClassification`.

    Args:
        options: what to build; all four stages.
        num_classes: 0 for pooled and normed features in place of logits.
        drop_rate: dropout before the last layer.
        global_pool: ``"avg"``, the only one.
        fields: of `HieraOptions`, by its names or timm's ``in_chans`` and ``img_size``.

    Attributes:
        feature_info: timm's: ``num_chs``, ``reduction`` and ``module`` of each stage.
        num_features, head_hidden_size: channels of the last stage.

    Raises:
        InputError: a value that cannot be used.
    """

    def __init__(
        self,
        options: HieraOptions,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        **fields: Any,
    ) -> None:
        super().__init__(options.replace(**{FIELDS.get(name, name): value for name, value in fields.items()}))
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = self.options.dims[-1]
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps=NORM_EPS)
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()

    def _plan_blocks(self, options: HieraOptions) -> None:
        super()._plan_blocks(options)
        built = [options.replace(out_features=[name]).feature_info[0] for name in STAGES[: len(self.stage_ends)]]
        self.feature_info: Any = [
            {"num_chs": stage.channels, "reduction": stage.stride, "module": f"blocks.{end}"}
            for stage, end in zip(built, self.stage_ends, strict=True)
        ]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put another last layer in, with random weights; 0 for none."""
        if global_pool not in (None, "avg"):
            raise InputError(f"global_pool {global_pool!r}: there is 'avg' only")
        self.num_classes = num_classes
        weight = self.patch_embed.proj.weight
        head = ClassifierHead(self.num_features, num_classes, self.drop_rate) if num_classes else nn.Identity()
        self.head: nn.Module = head.to(device=weight.device, dtype=weight.dtype)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.projection if isinstance(self.head, ClassifierHead) else self.head

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = True,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute stage maps.

        Args:
            x: images ``[B, C, H, W]``, normalised.
            indices: stages from 0, negative ones from the end; a number for so many last ones; None for all.
            norm: not supported, as in timm's own Hiera.
            stop_early: leave out what no map needs; so it is where ``intermediates_only``.
            output_fmt: ``NCHW`` or ``NHWC``.
            intermediates_only: return the maps alone, and not the final tokens before them.

        Raises:
            InputError: norm is asked for, or another format.
        """
        if norm or output_fmt not in ("NCHW", "NHWC"):
            raise InputError("forward_intermediates: takes norm=False and output_fmt NCHW or NHWC")
        taken, _ = feature_take_indices(len(self.stage_ends), indices)
        names = [STAGES[i] for i in taken]
        last = [] if intermediates_only else [STAGES[len(self.stage_ends) - 1]]
        found = self._stage_maps(x, [*names, *last])
        maps = [found[name] if output_fmt == "NCHW" else found[name].permute(0, 2, 3, 1) for name in names]
        return maps if intermediates_only else (found[last[0]].flatten(2).transpose(1, 2), maps)

    def _stage_maps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        ends = {self.stage_ends[STAGES.index(name)]: name for name in names}
        return self.maps_after(self.embed(x), ends)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take the stages after the last of ``indices`` out, with norm and head; returns the indices from 0."""
        taken, last = feature_take_indices(len(self.stage_ends), indices)
        pruned = last < len(self.stage_ends) - 1
        kept = self.options.replace(out_features=[STAGES[i] for i in sorted(taken)])
        del self.blocks[len(kept.block_stages) :]
        self._plan_blocks(kept)
        self.num_features = self.head_hidden_size = kept.dims[last] if pruned else self.num_features
        if prune_norm or pruned:
            self.norm = nn.Identity()
        if prune_head or pruned:
            self.reset_classifier(0)
        return list(taken)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to the last tokens ``[B, N, C]``, in the order of rows."""
        last = STAGES[len(self.stage_ends) - 1]
        return self._stage_maps(x, [last])[last].flatten(2).transpose(1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens to logits ``[B, num_classes]``, or to the features before the last layer."""
        x = self.norm(x.mean(dim=1))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        return self.forward_head(self.forward_features(x))


def register() -> list[str]:
    """Enter ``hiera_det_tiny`` ... ``hiera_det_huge`` in timm's registry; returns the names."""
    names = [f"hiera_det_{size}" for size in VARIANTS]
    for size, name in zip(VARIANTS, names, strict=True):
        if not is_model(name):
            register_model(_entrypoint(size, name))
    return names


def _entrypoint(size: str, name: str) -> Callable[..., nn.Module]:
    """What timm calls to build a size."""

    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **fields: Any,
    ) -> nn.Module:
        model = build_model_with_cfg(
            partial(TimmHiera, VARIANTS[size].options),
            name,
            pretrained=False,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            feature_cfg={"out_indices": 4, "feature_cls": "getter"},
            **fields,
        )
        if pretrained:
            cfg, trunk = model.pretrained_cfg, getattr(model, "model", model)
            source = cfg.get("file") or f"timm://{cfg['hf_hub_id'].removeprefix('timm/')}"
            load_weights(trunk, source, new_head=trunk.num_classes != cfg.get("num_classes"))
        return model

    build.__name__ = build.__qualname__ = name
    return build
