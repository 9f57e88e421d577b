"""Semantic and panoptic detectors from data set to printed metrics, and their targets under squares of padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.layers import ShapeSpec
from PIL import Image, ImageDraw

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.lazy.run import train_by_lazy_config
from hiera_det.d2.model.heads import HieraSemSegHead
from hiera_det.d2.predict.predictor import Predictor
from hiera_det.d2.train.run import train_by_yaml
from hiera_det.data.shapes import write_shapes_dataset
from hiera_det.engine.events import read_metrics
from hiera_det.errors import InputError

NAME = "shapes_with_maps"
SMALL = [
    "MODEL.DEVICE",
    "cpu",
    "MODEL.WEIGHTS",
    "",
    "MODEL.HIERA.EMBED_DIM",
    "16",
    "MODEL.HIERA.DEPTHS",
    "[1, 1, 1, 1]",
]
SMALL += ["MODEL.HIERA.NUM_GLOBAL_BLOCKS", "0", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16"]
SMALL += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
SMALL += ["DATASETS.TRAIN", f"('{NAME}',)", "DATASETS.TEST", f"('{NAME}',)", "DATALOADER.NUM_WORKERS", "0"]
SMALL += ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.EPOCHS", "0", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"]
REGIONS = ["MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"]
REGIONS += ["MODEL.ROI_HEADS.NUM_CLASSES", "5", "TEST.PICTURES", "1", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50"]


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shapes with a map for each image: 0 where there is one, 1 elsewhere, and a border that does not count."""
    folder = tmp_path_factory.mktemp("maps")
    shapes = write_shapes_dataset(folder, train=4, val=1, size=64)
    categories = json.loads(shapes.train_json.read_text())["categories"]
    records = load_coco_json(str(shapes.train_json), str(shapes.train_images), NAME)
    for record in records:
        image = Image.new("L", (record["width"], record["height"]), 1)
        draw = ImageDraw.Draw(image)
        for annotation in record["annotations"]:
            for polygon in annotation["segmentation"] if isinstance(annotation["segmentation"], list) else ():
                draw.polygon(polygon, fill=0)
        draw.line([(0, 0), (63, 0)], fill=255)
        record["sem_seg_file_name"] = str(folder / f"{record['image_id']}.png")
        image.save(record["sem_seg_file_name"])
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(
        json_file=str(shapes.train_json),
        image_root=str(shapes.train_images),
        stuff_classes=["things", "ground"],
        ignore_label=255,
        thing_classes=[category["name"] for category in categories],
    )
    return NAME


@pytest.mark.parametrize(
    ("config", "opts", "metrics"),
    [
        ("semantic_fpn_hiera_b_1x", ["MODEL.HIERA.SQUARE_PAD", "96"], ["sem_seg/mIoU"]),
        ("panoptic_fpn_hiera_b_1x", REGIONS, ["sem_seg/mIoU", "bbox/AP", "segm/AP"]),
    ],
)
def test_a_training_prints_what_its_detector_is_measured_by(
    config: str, opts: list[str], metrics: list[str], maps: str, tmp_path: Path
) -> None:
    train_by_yaml(RunRequest(config_file=config, opts=(*SMALL, *opts, "OUTPUT_DIR", str(tmp_path))), True)
    lines = read_metrics(tmp_path / "metrics.json")
    found: dict[str, Any] = {name: value for line in lines for name, value in line.items()}
    assert found["total_loss"] > 0
    assert set(metrics) <= found.keys()
    assert 0 < found["sem_seg/mIoU"] <= 100
    predictor = Predictor.from_folder(tmp_path, threshold=0.0)
    if "bbox/AP" in metrics:
        assert len(predictor([np.zeros((64, 64, 3), np.uint8)])) == 1
    else:
        with pytest.raises(InputError, match="SemanticSegmentor: gives no objects"):
            predictor([np.zeros((64, 64, 3), np.uint8)])
    log = (tmp_path / "log.txt").read_text()
    assert "mIoU" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("config", "metrics"),
    [
        ("semantic_fpn_hiera_b_1x", ["sem_seg/mIoU"]),
        ("panoptic_fpn_hiera_b_1x", ["sem_seg/mIoU", "bbox/AP", "segm/AP"]),
    ],
)
def test_a_lazy_config_is_measured_by_the_same(config: str, metrics: list[str], maps: str, tmp_path: Path) -> None:
    opts = ["train.init_checkpoint=", "train.device=cpu", f"train.output_dir={tmp_path}", "train.max_iter=2"]
    opts += ["+model.backbone.trunk.embed_dim=16", "+model.backbone.trunk.depths=[1,1,1,1]", "train.pictures=0"]
    opts += [
        "model.backbone.trunk.global_blocks=[]",
        "model.backbone.out_channels=16",
        "model.sem_seg_head.num_classes=2",
    ]
    opts += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    opts += [f"dataloader.train.dataset.names={maps}", f"dataloader.test.dataset.names={maps}", "train.eval_period=0"]
    opts += ["dataloader.train.mapper.augmentations=[]", "dataloader.test.mapper.augmentations=[]"]
    if "bbox/AP" in metrics:
        opts += ["model.roi_heads.num_classes=5", "model.sem_seg_head.conv_dims=16"]
    train_by_lazy_config(RunRequest(config_file=config, opts=tuple(opts)), True)
    found = {name: value for line in read_metrics(tmp_path / "metrics.json") for name, value in line.items()}
    assert set(metrics) <= found.keys()
    assert 0 < found["sem_seg/mIoU"] <= 100


def test_targets_are_compared_where_they_are_and_nowhere_else() -> None:
    head = HieraSemSegHead(
        {"p2": ShapeSpec(channels=8, stride=4)}, num_classes=3, conv_dims=8, common_stride=4, ignore_value=255
    )
    predictions, targets = torch.randn(2, 3, 24, 24), torch.randint(0, 3, (2, 64, 80))
    loss = head.losses(predictions, targets)["loss_sem_seg"]
    upsampled = F.interpolate(predictions, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss, F.cross_entropy(upsampled[:, :, :64, :80], targets))
