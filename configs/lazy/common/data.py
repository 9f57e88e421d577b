"""COCO with large-scale jitter, as in the Hiera paper's Table 15 and ViTDet."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from hiera_det.d2.data.augmentation import FixedSizeCrop, ResizeScale
from hiera_det.d2.data.mapper import ImageMapper, TrainMapper

dataloader = {
    "train": L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=True),
        mapper=L(TrainMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024),
                L(FixedSizeCrop)(crop_size=[1024, 1024], pad=False),  # the backbone pads
            ],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="polygon",
            recompute_boxes=True,
            max_pixels=100_000_000,
            on_bad_image="fail",
        ),
        total_batch_size=64,
        num_workers=4,
    ),
    "test": L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(ImageMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=1024, max_size=1024)],
            image_format="${...train.mapper.image_format}",
            max_pixels="${...train.mapper.max_pixels}",
            on_bad_image="${...train.mapper.on_bad_image}",
        ),
        num_workers=4,
    ),
    "evaluator": L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir="${train.output_dir}/inference",
        use_fast_impl=False,  # pycocotools, whose numbers papers report; True needs a compiled detectron2
    ),
}
