"""RetinaNet on Hiera-B, 12 epochs of COCO; the same detector and recipe as configs/retinanet_hiera_b_1x.yaml."""

from .common.dense import retinanet
from .common.recipe import boxes_1x

dataloader, lr_multiplier, model, optimizer, train = boxes_1x(
    size="base", lr=3.5e-5, drop_path_rate=0.2, global_blocks=[12, 16, 20]
)
model = retinanet(model)
