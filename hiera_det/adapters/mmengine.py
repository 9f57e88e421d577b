"""The trunk in OpenMMLab's convention: importing this file registers it, so that configs say ``type="HieraDet"``.

It goes into mmengine's own registry, in which mmdetection and mmsegmentation look too:
``custom_imports = dict(imports=["hiera_det.adapters.mmengine"], allow_failed_imports=False)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.options import STAGES
from hiera_det.modeling.variants import detector_fields
from hiera_det.weights.load import load_weights
from hiera_det.zoo import build_hiera

__all__ = ["HieraDet"]


@MODELS.register_module()
class HieraDet(BaseModule):
    """A backbone of OpenMMLab's detectors and segmenters; ``hiera_det.load_weights(backbone.trunk, ...)`` fills it.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``.
        out_indices: stages from 0 whose maps are returned; those after the last are not built.
        windowed: attend in windows, as `hiera_det.HieraFPN` does.
        frozen_stages: -1 freezes nothing, 0 the stem, n the first n stages too.
        with_cp: recompute each block in the backward pass, to save memory.
        init_cfg: ``dict(type="Pretrained", checkpoint=...)`` loads any Hiera file, URL or ``hf://`` name; None leaves
            random weights.
        trunk: more fields of `hiera_det.HieraOptions`, such as ``drop_path_rate=0.2``.

    Attributes:
        trunk: the `hiera_det.Hiera`.
        out_channels: of each map that is returned; ``in_channels`` of the neck that follows.

    Raises:
        InputError: a value that cannot be used; or weights that do not fit, when they are loaded.
    """

    def __init__(
        self,
        size: str = "base",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        windowed: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **trunk: Any,
    ) -> None:
        super().__init__(dict(init_cfg) if init_cfg else None)
        if init_cfg and (init_cfg.get("type") != "Pretrained" or not init_cfg.get("checkpoint")):
            raise InputError(f'init_cfg {dict(init_cfg)}: give dict(type="Pretrained", checkpoint=...), or None')
        if not out_indices or any(index not in range(len(STAGES)) for index in out_indices):
            raise InputError(f"out_indices {list(out_indices)}: give some of 0 to {len(STAGES) - 1}")
        windows = detector_fields(size, trunk.get("depths")) if windowed else {}
        names = [STAGES[index] for index in out_indices]
        self.trunk = build_hiera(size, **(windows | trunk | {"out_features": names, "use_checkpoint": with_cp}))
        self.out_channels = [feature.channels for feature in self.trunk.feature_info]
        if frozen_stages >= 0:
            self.trunk.freeze(frozen_stages)

    def init_weights(self) -> None:
        """Load the file of ``init_cfg``; mmengine calls it once, after the model is built."""
        if self.init_cfg and not self.is_init:
            load_weights(self.trunk, self.init_cfg["checkpoint"])
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the stage maps.

        Args:
            x: ``[B, C, H, W]`` of any size, normalised; padded with zeros for the trunk.

        Returns:
            a map ``[B, channels, ceil(H / stride), ceil(W / stride)]`` for each of ``out_indices``, as of a ResNet.
        """
        height, width = x.shape[-2:]
        step = self.trunk.size_divisibility
        maps = self.trunk(F.pad(x, (0, -width % step, 0, -height % step)))
        return tuple(
            maps[f.name][..., : math.ceil(height / f.stride), : math.ceil(width / f.stride)]
            for f in self.trunk.feature_info
        )
