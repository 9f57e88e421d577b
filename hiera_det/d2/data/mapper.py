"""From a record of a data set to what the model is given: images by the one policy, of any shape, and their objects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import annotations_to_instances, transform_proposals

from hiera_det.d2.data.augmentation import ResizeShortestEdge, build_augmentation, check_lsj
from hiera_det.d2.data.fused import Plan, can_fuse, instances_of_masks, is_fused
from hiera_det.d2.data.pixels import check_size, read_pixels
from hiera_det.data.bad_images import BadImages
from hiera_det.data.images import MAX_PIXELS, BadImageError
from hiera_det.data.memory import Pixels

__all__ = ["ImageMapper", "TrainMapper", "build_loss_mapper", "build_test_mapper", "build_train_mapper"]


def build_train_mapper(cfg: CfgNode) -> TrainMapper:
    """detectron2's mapper from a record of a data set to a training sample, with `build_augmentation`.

    Boxes are recomputed from the cropped masks where there are masks, and clipped otherwise; objects of which the crop
    leaves nothing are left out, and so are crowds, as always in detectron2's training.

    Raises:
        InputError: see `hiera_det.d2.data.augmentation.check_lsj`; or ``INPUT.ON_BAD_IMAGE`` is unknown.
    """
    check_lsj(cfg)
    arguments = DatasetMapper.from_config(cfg, True)
    if cfg.INPUT.LSJ.ENABLED:
        arguments |= {"augmentations": build_augmentation(cfg), "recompute_boxes": bool(cfg.MODEL.MASK_ON)}
    return TrainMapper(**arguments, **_policy(cfg))


def build_test_mapper(cfg: CfgNode) -> ImageMapper:
    """The mapper of evaluation: images resized by ``INPUT`` for tests, no annotations.

    Raises:
        InputError: ``INPUT.ON_BAD_IMAGE`` is unknown.
    """
    return ImageMapper(**DatasetMapper.from_config(cfg, False), **_policy(cfg))


def build_loss_mapper(cfg: CfgNode) -> ImageMapper:
    """The mapper of the losses of an evaluation: images as for tests, and their objects; none is ever replaced.

    Raises:
        InputError: ``INPUT.ON_BAD_IMAGE`` is unknown.
    """
    arguments = DatasetMapper.from_config(cfg, True)
    plain = {"augmentations": DatasetMapper.from_config(cfg, False)["augmentations"], "recompute_boxes": False}
    return TrainMapper(**arguments | plain, **_policy(cfg))


def _policy(cfg: CfgNode) -> dict[str, Any]:
    return {"max_pixels": cfg.INPUT.MAX_PIXELS, "on_bad_image": cfg.INPUT.ON_BAD_IMAGE}


class ImageMapper(DatasetMapper):
    """detectron2's mapper over `hiera_det.data.images`.

    Args:
        is_train: see `detectron2.data.DatasetMapper`.
        augmentations: see there; a resize to a shortest edge leaves slivers at least one pixel.
        max_pixels: ``INPUT.MAX_PIXELS``.
        on_bad_image: ``INPUT.ON_BAD_IMAGE``.
        more: see `DatasetMapper`.

    Attributes:
        bad_images: counts what could not be read.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        max_pixels: int = MAX_PIXELS,
        on_bad_image: str = "fail",
        **more: Any,
    ) -> None:
        super().__init__(is_train, augmentations=[ResizeShortestEdge.like(a) for a in augmentations], **more)
        self.max_pixels = max_pixels
        self.bad_images = BadImages(on_bad_image)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """A record to a sample; None for an image that cannot be read and is to be skipped.

        Raises:
            BadImageError: it cannot be read, or is not of the size that the record says.
        """
        sample = copy.deepcopy(dataset_dict)
        try:
            image, semantic = read_pixels(sample["file_name"], self.image_format, self.max_pixels), None
            check_size(sample, image)
            if "sem_seg_file_name" in sample:
                semantic = read_pixels(sample.pop("sem_seg_file_name"), "L", self.max_pixels).squeeze(2)
        except BadImageError as error:
            self.bad_images.add(error)
            return None
        image, semantic, transforms = self._augmented(image, semantic)
        image_shape = image.shape[:2]
        sample["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if semantic is not None:
            sample["sem_seg"] = torch.as_tensor(semantic.astype("long"))
        if self.proposal_topk is not None:
            transform_proposals(sample, image_shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            sample.pop("annotations", None)
        elif "annotations" in sample:
            self._transform_annotations(sample, transforms, image_shape)
        return sample

    def _augmented(self, image: Pixels, semantic: Pixels | None) -> tuple[Pixels, Pixels | None, T.TransformList]:
        """An image and a semantic map after the augmentations, and what was done to them."""
        if not can_fuse(self.augmentations.augs):
            inputs = T.AugInput(image, sem_seg=semantic)
            transforms = self.augmentations(inputs)
            return inputs.image, inputs.sem_seg, transforms
        transforms = Plan(*image.shape[:2]).take(self.augmentations.augs)
        return (
            transforms.apply_image(image),
            semantic if semantic is None else transforms.apply_segmentation(semantic),
            transforms,
        )


class TrainMapper(ImageMapper):
    """The mapper of training, for images without objects too."""

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Put ``instances`` in the annotations' place."""
        if all(annotation.get("iscrowd", 0) for annotation in dataset_dict["annotations"]):
            # detectron2 would look for boxes in masks that are not there.
            del dataset_dict["annotations"]
            dataset_dict["instances"] = annotations_to_instances([], image_shape)
            return
        if self._takes_masks():
            objects = [one for one in dataset_dict["annotations"] if not one.get("iscrowd", 0)]
            if is_fused(transforms, objects):
                del dataset_dict["annotations"]
                dataset_dict["instances"] = instances_of_masks(objects, transforms)
                return
        if self.keypoint_hflip_indices is not None:  # an object without keypoints has none that are labelled
            for annotation in dataset_dict["annotations"]:
                annotation.setdefault("keypoints", [0.0] * 3 * len(self.keypoint_hflip_indices))
        super()._transform_annotations(dataset_dict, transforms, image_shape)

    def _takes_masks(self) -> bool:
        """Whether objects are masks with boxes around them, and nothing else."""
        masks = self.use_instance_mask and self.instance_mask_format == "bitmask"
        return bool(masks and self.recompute_boxes and not self.use_keypoint)
