"""The adapter to detectron2, 0.6 and main: the only place that imports it. Importing this registers, no more."""

from __future__ import annotations

import warnings

from hiera_det.extras import GET_DETECTRON2

try:
    with warnings.catch_warnings():  # torch.jit.script, by which detectron2 compiles a few lines as it is imported
        warnings.filterwarnings("ignore", r".*torch\.jit\.", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit\.", DeprecationWarning)
        import detectron2.modeling  # noqa: F401
    # Of detectron2's anchors, which mean what they say.
    warnings.filterwarnings("ignore", r"torch\.meshgrid: in an upcoming release")
except ImportError as error:
    if error.name not in (None, "detectron2"):  # installed, but one of its own needs is not: its message says which
        raise
    raise ImportError(f"hiera_det.d2 needs detectron2, which is not installed: {GET_DETECTRON2}") from None

from hiera_det.d2.config.keys import add_hiera_config
from hiera_det.d2.model import heads as _heads  # registers the heads
from hiera_det.d2.model.backbone import (
    HieraBackbone,
    build_hiera_backbone,
    build_hiera_fpn_backbone,
    build_hiera_simple_fpn_backbone,
)

__all__ = [
    "HieraBackbone",
    "add_hiera_config",
    "build_hiera_backbone",
    "build_hiera_fpn_backbone",
    "build_hiera_simple_fpn_backbone",
]
del _heads
