"""AdamW and step decay: Hiera paper, Table 15; milestones and warm-up are ViTDet's, for the paper gives none."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from hiera_det.d2.lazy import warmup_length
from hiera_det.d2.train.solver import param_groups

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(
        # The tool sets params.model.
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        weight_decay_norm=0.0,
        weight_decay_pos_embed=0.0,
        layer_decay=1.0,
    ),
    lr=3.5e-5,
    betas=[0.9, 0.999],
    weight_decay=0.1,
    fused=True,  # one pass over the memory in place of a dozen
)

lr_multiplier = L(WarmupParamScheduler)(
    # Parts of the training, so that another train.max_iter moves them: after 24 and 26 of 27.
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[24, 26], num_updates=27),
    warmup_length=L(warmup_length)(iterations=250, max_iter="${train.max_iter}"),
    warmup_factor=0.001,
    warmup_method="linear",
)
