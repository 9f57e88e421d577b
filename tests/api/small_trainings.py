"""What makes a training take a moment."""

from __future__ import annotations

from typing import Any

#: Keys of a detector whose training step takes a fraction of a second.
SMALL: dict[str, Any] = {"MODEL.HIERA.EMBED_DIM": 16, "MODEL.HIERA.DEPTHS": [1, 1, 1, 1], "MODEL.FPN.OUT_CHANNELS": 16}
SMALL |= {"MODEL.ROI_BOX_HEAD.CONV_DIM": 16, "MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.ROI_MASK_HEAD.CONV_DIM": 16}
SMALL |= {"TEST.PICTURES": 0, "TEST.REPORT": False}
DIMS: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1, 1, 1]}
