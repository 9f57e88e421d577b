"""LazyConfigs: translation only. What the files in ``configs/lazy`` call is named here."""

from __future__ import annotations

from hiera_det.d2.lazy.nodes import build_fpn_backbone, warmup_length

__all__ = ["build_fpn_backbone", "warmup_length"]
