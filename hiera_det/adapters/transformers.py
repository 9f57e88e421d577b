"""The trunk in transformers' convention: a config, and a backbone for the detectors and segmenters there.

After `register` the config is all that they need: ``Mask2FormerConfig(backbone_config=HieraDetConfig(...))``.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from hiera_det.modeling.hiera import Hiera, HieraBase
from hiera_det.modeling.intermediates import intermediates
from hiera_det.modeling.options import PATCH_STRIDE, STAGES, HieraOptions
from hiera_det.modeling.variants import detector_fields, get_variant

__all__ = ["HieraDetBackbone", "HieraDetConfig", "register"]

STEM = "stem"


class HieraDetConfig(BackboneConfigMixin, PretrainedConfig):
    """What a `HieraDetBackbone` is built from.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``.
        windowed: attend in windows, as `hiera_det.HieraFPN` does.
        trunk: fields of `hiera_det.HieraOptions` in place of the size's, such as ``{"drop_path_rate": 0.2}``.
        out_features: some of ``stem``, ``stage1`` ... ``stage4``, one stage at least; by default the last.
        out_indices: the same by number, 0 for the stem.

    Raises:
        InputError: a field of the trunk that cannot be used.
    """

    model_type = "hiera_det"

    size: str = "base"
    windowed: bool = True
    trunk: dict[str, Any] | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = [STEM, *STAGES]
        given = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        self.set_output_features_output_indices(*given)
        self.num_channels, self.hidden_size = self.options.in_channels, self.options.dims[-1]
        super().__post_init__(**kwargs)

    @property
    def options(self) -> HieraOptions:
        """The trunk's, whose last stage is the last that is returned."""
        fields = dict(self.trunk or {})
        windows = detector_fields(self.size, fields.get("depths")) if self.windowed else {}
        stages = [name for name in self._out_features or STAGES if name != STEM]
        return get_variant(self.size).options.replace(**(windows | fields | {"out_features": stages}))


class HieraDetBackbone(BackboneMixin, PreTrainedModel):
    """The trunk as a backbone of transformers'; ``hiera_det.load_weights(backbone.trunk, ...)`` loads any Hiera file.

    Maps are the trunk's, not normed.

    Attributes:
        trunk: the `hiera_det.Hiera`.
    """

    config_class = HieraDetConfig
    base_model_prefix = "hiera_det"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ("HieraBlock",)

    def __init__(self, config: HieraDetConfig) -> None:
        super().__init__(config)
        self.trunk = Hiera(config.options)
        self.num_features = [config.options.embed_dim, *config.options.dims]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, HieraBase):  # which has all
            module.init_weights()

    def _set_gradient_checkpointing(self, enable: bool = True, *_: Any, **__: Any) -> None:
        self.trunk.set_grad_checkpointing(enable)

    def get_input_embeddings(self) -> nn.Module:
        """The stem."""
        return self.trunk.patch_embed

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Compute the maps of ``config.out_features``.

        Args:
            pixel_values: ``[B, C, H, W]`` of any size, normalised; padded with zeros for the trunk, and the maps cut to
                ``[B, C, ceil(H / s), ceil(W / s)]``, as a convolutional backbone's are.
            output_hidden_states: return the maps of stem and stages too.
            output_attentions: return each block's weights too, as `hiera_det.Intermediates` has them.
            return_dict: False for a tuple.
        """
        height, width = pixel_values.shape[-2:]
        step = self.trunk.size_divisibility
        x = F.pad(pixel_values, (0, -width % step, 0, -height % step))
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        found = self._maps(x, hidden or STEM in self.out_features)
        for name, found_map in found.items():
            stride = PATCH_STRIDE * self.trunk.options.token_strides[max(0, self.stage_names.index(name) - 1)]
            found[name] = found_map[..., : math.ceil(height / stride), : math.ceil(width / stride)]
        output = BackboneOutput(
            feature_maps=tuple(found[name] for name in self.out_features),
            hidden_states=tuple(found.values()) if hidden else None,
            attentions=intermediates(self.trunk, x, attentions=True).attentions if output_attentions else None,
        )
        return output.to_tuple() if return_dict is False else output

    def _maps(self, x: Tensor, all_stages: bool) -> dict[str, Tensor]:
        """The trunk's maps, or those of the stem and of every stage that is built."""
        if not all_stages:
            return self.trunk(x)
        tokens = self.trunk.embed(x)
        ends = dict(zip(self.trunk.stage_ends, STAGES, strict=False))
        return {STEM: tokens.map()} | self.trunk.maps_after(tokens, ends)


def register() -> None:
    """Let ``AutoConfig`` and ``AutoBackbone`` know the config, and with them transformers' detectors."""
    AutoConfig.register(HieraDetConfig.model_type, HieraDetConfig, exist_ok=True)
    AutoBackbone.register(HieraDetConfig, HieraDetBackbone, exist_ok=True)
