"""Ten steps on real photographs in every framework that takes the backbone: the loss falls, its evaluator speaks.

Tests make their own images; this takes yours: a COCO JSON of instances with masks. Each row trains on a few of its
images, the same ones in each step, and is then measured on them by what that framework measures with.

Example:
    pip install segmentation-models-pytorch
    python tests/photographs.py --json photos/train.json --images photos/train
"""

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

STEPS, SIDE = 10, 192
SMALL = ["MODEL.HIERA.SIZE", "tiny", "MODEL.HIERA.NUM_GLOBAL_BLOCKS", "0", "MODEL.HIERA.DROP_PATH_RATE", "0.0"]
SMALL += [
    "MODEL.DEVICE",
    "cpu",
    "MODEL.WEIGHTS",
    "",
    "SOLVER.MAX_ITER",
    f"{STEPS}",
    "SOLVER.EPOCHS",
    "0",
    "SOLVER.STEPS",
    "()",
]
SMALL += [
    "SOLVER.BASE_LR",
    "1e-4",
    "SOLVER.IMS_PER_BATCH",
    "4",
    "SOLVER.REFERENCE_WORLD_SIZE",
    "0",
    "SOLVER.WARMUP_ITERS",
    "0",
]
SMALL += ["INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST", f"{SIDE}", "INPUT.RANDOM_FLIP", "none"]
SMALL += ["DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0", "TEST.PICTURES", "0", "TEST.REPORT", "False"]

#: Fewer boxes in the detectors of two stages: detectron2's, and torchvision's.
BOXES = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32", "MODEL.RPN.POST_NMS_TOPK_TEST", "100"]
FEW = {"box_batch_size_per_image": 32, "rpn_post_nms_top_n_test": 100}
OPTIONS = {"maskrcnn": FEW, "fasterrcnn": FEW}


class Losses:
    """A callback that keeps the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.values.append(metrics.get("total_loss", metrics.get("loss", float("nan"))))


class Photographs:
    """A few images of a COCO JSON, in the forms that the frameworks want."""

    def __init__(self, file: Path, images: Path, folder: Path, count: int) -> None:
        content = json.loads(file.read_text(encoding="utf-8"))
        kept = sorted({a["image_id"] for a in content["annotations"]})[:count]
        content["images"] = [image for image in content["images"] if image["id"] in kept]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        names = ["left", "right", "top", "bottom"]
        for category in content["categories"]:
            category["keypoints"] = names
        self.json, self.images, self.content = folder / "few.json", images, content
        self.json.write_text(json.dumps(content))
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(self.json))
        for annotation in content["annotations"]:
            annotation["keypoints"], annotation["num_keypoints"] = extremes(self.coco.annToMask(annotation)), len(names)
        self.json.write_text(json.dumps(content))
        self.folder = folder

    def each(self) -> Iterator[tuple[dict[str, Any], Image.Image, list[dict[str, Any]]]]:
        for image in self.content["images"]:
            with Image.open(self.images / image["file_name"]) as opened:
                yield image, opened.convert("RGB"), self.coco.loadAnns(self.coco.getAnnIds(image["id"]))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised ``[B, 3, SIDE, SIDE]`` and the maps of classes, 0 the background."""
        images, maps = [], []
        for _, image, annotations in self.each():
            pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32) / 255
            images.append((pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225))
            whole = np.zeros(image.size[::-1], np.uint8)
            for annotation in annotations:
                whole[self.coco.annToMask(annotation) > 0] = self.classes.index(annotation["category_id"]) + 1
            maps.append(np.asarray(Image.fromarray(whole).resize((SIDE, SIDE), Image.Resampling.NEAREST)))
        pixels = torch.tensor(np.stack(images), dtype=torch.float32).permute(0, 3, 1, 2)
        return pixels, torch.tensor(np.stack(maps), dtype=torch.long)

    @property
    def classes(self) -> list[int]:
        return [category["id"] for category in self.content["categories"]]

    def targets(self) -> list[dict[str, torch.Tensor]]:
        """Classes and boxes ``[N, 4]`` as centre and size, of 0 to 1: DETR's."""
        found = []
        for image, _, annotations in self.each():
            size = torch.tensor([image["width"], image["height"]] * 2)
            boxes = torch.tensor([a["bbox"] for a in annotations]) / size
            boxes[:, :2] += boxes[:, 2:] / 2
            labels = torch.tensor([self.classes.index(a["category_id"]) for a in annotations])
            found.append({"class_labels": labels, "boxes": boxes})
        return found


def extremes(mask: np.ndarray) -> list[int]:
    """The outermost points of a mask to the left, right, top and bottom: keypoints where there are none."""
    rows, columns = np.nonzero(mask)
    ends = [columns.argmin(), columns.argmax(), rows.argmin(), rows.argmax()] if len(rows) else []
    return [int(value) for end in ends for value in (columns[end], rows[end], 2)] or [0] * 12


def of_detectron2(config: str, *opts: str) -> Callable[[Photographs], tuple[list[float], str]]:
    """A config of ours, trained as anybody would, and measured by detectron2's evaluators."""

    def run(photographs: Photographs) -> tuple[list[float], str]:
        from hiera_det import train_detector

        losses, data = Losses(), (str(photographs.json), str(photographs.images))
        output = str(photographs.folder / config)
        settings: list[Any] = [*SMALL, *opts]
        run = train_detector(config, train=data, val=data, output=output, seed=0, opts=settings, callbacks=[losses])
        return losses.values, named(run.metrics, "AP", "mIoU")

    return run


def of_detectron2_maps(config: str) -> Callable[[Photographs], tuple[list[float], str]]:
    """The same with semantic maps, of which data sets are registered."""

    def run(photographs: Photographs) -> tuple[list[float], str]:
        from detectron2.data import DatasetCatalog, MetadataCatalog
        from detectron2.data.datasets import load_coco_json

        from hiera_det.d2.config.request import RunRequest
        from hiera_det.d2.train.run import train_by_yaml
        from hiera_det.engine.events import read_metrics

        name = f"photographs_{config}"
        records = load_coco_json(str(photographs.json), str(photographs.images), name)
        for record, (image, pixels, annotations) in zip(records, photographs.each(), strict=True):
            whole = np.zeros(pixels.size[::-1], np.uint8)
            for annotation in annotations:
                whole[photographs.coco.annToMask(annotation) > 0] = 1
            record["sem_seg_file_name"] = str(photographs.folder / f"{config}_{image['id']}.png")
            Image.fromarray(whole).save(record["sem_seg_file_name"])
        DatasetCatalog.register(name, lambda: records)
        things = [category["name"] for category in photographs.content["categories"]]
        MetadataCatalog.get(name).set(
            json_file=str(photographs.json), thing_classes=things, stuff_classes=["ground", "things"], ignore_label=255
        )
        output = photographs.folder / config
        opts = [*SMALL, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2", "SEED", "0", "OUTPUT_DIR", str(output)]
        opts += ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]
        if config.startswith("panoptic"):
            opts += ["MODEL.ROI_HEADS.NUM_CLASSES", str(len(things)), *BOXES]
        losses = Losses()
        train_by_yaml(RunRequest(config_file=config, opts=tuple(opts)), True, callbacks=[losses])
        metrics = {key: value for line in read_metrics(output / "metrics.json") for key, value in line.items()}
        return losses.values, named(metrics, "AP", "mIoU")

    return run


def of_torchvision(detector: str) -> Callable[[Photographs], tuple[list[float], str]]:
    """Detectors of torchvision's on our engine, measured by pycocotools, as in torchvision's own references."""

    def run(photographs: Photographs) -> tuple[list[float], str]:
        from hiera_det import train_torchvision

        losses, data = Losses(), (str(photographs.json), str(photographs.images))
        count = len(photographs.content["images"])
        run = train_torchvision(
            detector, train=data, val=data, output=photographs.folder / detector, size="tiny", image_size=SIDE,
            epochs=STEPS, eval_epochs=STEPS, batch_size=count, learning_rate=1e-4, device="cpu", num_workers=0, seed=0,
            callbacks=[losses], settings={"warmup_epochs": 0}, options=OPTIONS.get(detector),
        )  # fmt: skip
        return losses.values, named(run.metrics, "AP")

    return run


def of_torchvision_keypoints(photographs: Photographs) -> tuple[list[float], str]:
    """Keypoint R-CNN of torchvision's in a plain loop, measured by pycocotools."""
    from hiera_det.adapters.torchvision import keypointrcnn_hiera

    model = keypointrcnn_hiera(
        "tiny", num_classes=2, num_keypoints=4, min_size=SIDE, max_size=2 * SIDE, **OPTIONS["maskrcnn"]
    )
    images, targets = [], []
    by_image: dict[int, list[Any]] = {}
    for annotation in photographs.content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image, pixels, _ in photographs.each():
        images.append(torch.tensor(np.asarray(pixels)).permute(2, 0, 1) / 255)
        own = by_image[image["id"]]
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        points = torch.tensor([a["keypoints"] for a in own], dtype=torch.float32).view(-1, 4, 3)
        targets.append({"boxes": boxes, "labels": torch.ones(len(own), dtype=torch.long), "keypoints": points})
    losses = steps(model, lambda: sum(model(images, targets).values()))
    rows = []
    with torch.no_grad():
        for image, found in zip(photographs.content["images"], model.eval()(images), strict=True):
            for points, score in zip(found["keypoints"], found["scores"], strict=True):
                kept = {"keypoints": points.flatten().tolist(), "score": score.item()}
                rows.append({"image_id": image["id"], "category_id": photographs.classes[0], **kept})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth := COCO(str(photographs.json)), truth.loadRes(rows), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.full(4, 0.1)
        for part in ("evaluate", "accumulate", "summarize"):
            getattr(evaluation, part)()
    return losses, f"keypoints/AP {100 * evaluation.stats[0]:.2f}"


def of_smp(photographs: Photographs) -> tuple[list[float], str]:
    """A U-Net of segmentation_models_pytorch on timm's convention, measured by its own IoU."""
    import segmentation_models_pytorch as smp

    from hiera_det.adapters.timm import register

    register()
    classes = len(photographs.classes) + 1
    model = smp.Unet("tu-hiera_det_tiny", encoder_weights=None, classes=classes)
    images, maps = photographs.tensors()
    dice = smp.losses.DiceLoss("multiclass")
    losses = steps(model, lambda: dice(model(images), maps))
    with torch.no_grad():
        counts = smp.metrics.get_stats(model.eval()(images).argmax(1), maps, mode="multiclass", num_classes=classes)
    return losses, f"IoU {100 * smp.metrics.iou_score(*counts, reduction='micro').item():.2f}"


def of_transformers(kind: str) -> Callable[[Photographs], tuple[list[float], str]]:
    """A detector or segmenter of transformers', measured on what its own image processor makes of the outputs."""

    def run(photographs: Photographs) -> tuple[list[float], str]:
        import transformers

        from hiera_det.adapters.transformers import HieraDetConfig, register

        register()
        stages = ["stage2", "stage3", "stage4"] if "Detr" in kind else ["stage1", "stage2", "stage3", "stage4"]
        config = HieraDetConfig(size="tiny", out_features=stages)
        labels = len(photographs.classes)
        images, maps = photographs.tensors()
        if "Detr" in kind:
            more = {"encoder_in_channels": [192, 384, 768]} if kind == "RTDetr" else {}
            made = getattr(transformers, f"{kind}Config")(backbone_config=config, num_labels=labels, **more)
            model = getattr(transformers, f"{kind}ForObjectDetection")(made)
            processor = getattr(transformers, f"{kind}ImageProcessor")()
            targets = photographs.targets()
            losses = steps(model, lambda: model(pixel_values=images, labels=targets).loss)
            return losses, boxes_ap(photographs, model, processor, images)
        processor = transformers.Mask2FormerImageProcessor()
        if kind == "Mask2Former":
            made = transformers.Mask2FormerConfig(backbone_config=config, num_labels=labels + 1, decoder_layers=3)
            model = transformers.Mask2FormerForUniversalSegmentation(made)
            own = [found.unique() for found in maps]
            masks = [(found == which[:, None, None]).float() for found, which in zip(maps, own, strict=True)]
            losses = steps(model, lambda: model(pixel_values=images, mask_labels=masks, class_labels=own).loss)
        else:
            made = transformers.UperNetConfig(
                backbone_config=config, num_labels=labels + 1, auxiliary_in_channels=384, hidden_size=128
            )
            model = transformers.UperNetForSemanticSegmentation(made)
            losses = steps(model, lambda: model(pixel_values=images, labels=maps).loss)
            processor = transformers.SegformerImageProcessor()
        with torch.no_grad():
            output = model.eval()(pixel_values=images)
        found = torch.stack(processor.post_process_semantic_segmentation(output, [(SIDE, SIDE)] * len(images)))
        return losses, f"mIoU {100 * mean_iou(found, maps, labels + 1):.2f}"

    return run


def boxes_ap(photographs: Photographs, model: torch.nn.Module, processor: Any, images: torch.Tensor) -> str:
    """AP by pycocotools of what the processor gives."""
    with torch.no_grad():
        output = model.eval()(pixel_values=images)
    sizes = torch.tensor([[image["height"], image["width"]] for image in photographs.content["images"]])
    rows = []
    found = processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes)
    for image, each in zip(photographs.content["images"], found, strict=True):
        for score, label, (x, y, right, bottom) in zip(
            each["scores"].tolist(), each["labels"].tolist(), each["boxes"].tolist(), strict=True
        ):
            row = {"image_id": image["id"], "category_id": photographs.classes[label], "score": score}
            rows.append(row | {"bbox": [x, y, right - x, bottom - y]})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(photographs.coco, photographs.coco.loadRes(rows), "bbox")
        for part in ("evaluate", "accumulate", "summarize"):
            getattr(evaluation, part)()
    return f"bbox/AP {100 * evaluation.stats[0]:.2f}"


def mean_iou(found: torch.Tensor, maps: torch.Tensor, classes: int) -> float:
    """Mean over the classes of intersection over union of two maps of classes."""
    parts = [((found == k) & (maps == k)).sum() / ((found == k) | (maps == k)).sum() for k in range(classes)]
    return float(torch.stack(parts).nanmean())


def steps(model: torch.nn.Module, loss_of: Callable[[], Any]) -> list[float]:
    """Ten steps of AdamW, and the loss of each."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-4), []
    model.train()
    for _ in range(STEPS):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def named(metrics: Mapping[str, float], *ends: str) -> str:
    """The metrics that people look at."""
    kept = {key: value for key, value in metrics.items() if key.rpartition("/")[2] in ends and value == value}
    return ", ".join(f"{key} {value:.2f}" for key, value in kept.items())


NO_LSJ = ["MODEL.HIERA.SQUARE_PAD", "0", "INPUT.LSJ.ENABLED", "False", "SOLVER.AMP.ENABLED", "False"]
SIGMAS = ["TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.1, 0.1, 0.1]"]
ROWS: dict[str, Callable[[Photographs], tuple[list[float], str]]] = {
    "detectron2 Mask R-CNN": of_detectron2("mask_rcnn_hiera_t_1x", *BOXES),
    "detectron2 Cascade R-CNN": of_detectron2("cascade_mask_rcnn_hiera_b", *NO_LSJ, *BOXES),
    "detectron2 Faster R-CNN": of_detectron2("faster_rcnn_hiera_b_1x", *BOXES),
    "detectron2 RetinaNet": of_detectron2("retinanet_hiera_b_1x"),
    "detectron2 FCOS": of_detectron2("fcos_hiera_b_1x"),
    "detectron2 Keypoint R-CNN": of_detectron2("keypoint_rcnn_hiera_b_1x", *SIGMAS, *BOXES),
    "detectron2 Panoptic FPN": of_detectron2_maps("panoptic_fpn_hiera_b_1x"),
    "detectron2 Semantic FPN": of_detectron2_maps("semantic_fpn_hiera_b_1x"),
    **{f"torchvision {name}": of_torchvision(name) for name in ("maskrcnn", "fasterrcnn", "retinanet", "fcos")},
    "torchvision keypointrcnn": of_torchvision_keypoints,
    "timm, smp U-Net": of_smp,
    **{f"transformers {k}": of_transformers(k) for k in ("Mask2Former", "UperNet", "DeformableDetr", "RTDetr")},
}


def main() -> int:
    """Run the rows, or those that are named; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="COCO's, with masks")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4, help="images to train on")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    args = parser.parse_args()
    failed = 0
    print("| framework | loss of steps 1 to 3 | of the last 3 | its metric on them |\n|---|---|---|---|", flush=True)
    for row in args.rows:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    photographs = Photographs(args.json, args.images, Path(folder), args.count)
                    losses, metric = ROWS[row](photographs)
                first, last = (sum(part) / 3 for part in (losses[:3], losses[-3:]))
                fell = last < first
                print(f"| {row} | {first:.3f} | {last:.3f}{'' if fell else ' (no less)'} | {metric} |", flush=True)
                failed += not fell or not metric
            except Exception as error:
                traceback.print_exc()
                print(f"| {row} | {type(error).__name__}: {error} | | |", flush=True)
                failed += 1
            finally:
                logging.shutdown()
    return failed


if __name__ == "__main__":
    sys.exit(main())
