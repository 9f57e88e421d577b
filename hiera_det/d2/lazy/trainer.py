"""The trainer of a LazyConfig: the YAML configs' own, whose parts are built from the LazyConfig's nodes."""

from __future__ import annotations

import copy
import os
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.solver import LRMultiplier
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from hiera_det.d2.data.batches import build_eval_loader
from hiera_det.d2.data.mapper import TrainMapper
from hiera_det.d2.lazy.files import walk
from hiera_det.d2.model.recompute import recompute_parts
from hiera_det.d2.predict.evaluation import COCO_MAX_DETS
from hiera_det.d2.predict.semantic import evaluator_of
from hiera_det.d2.train.trainer import Trainer
from hiera_det.errors import InputError

__all__ = ["trainer_class"]

#: detectron2's loader, whose order can be taken up in its middle.
LOADER = "hiera_det.d2.data.train_loader.build_train_loader"
#: Its loader of an evaluation, which names images that cannot be read or leaves them out.
EVAL_LOADER = "hiera_det.d2.data.batches.build_eval_loader"
#: Its evaluator, to which classes go by name.
EVALUATOR = "hiera_det.d2.predict.evaluation.Evaluator"


def trainer_class(lazy: DictConfig) -> type[Trainer]:
    """A `Trainer` for one LazyConfig, to be built with the settings of `hiera_det.d2.lazy.run.setup_lazy_config`.

    Args:
        lazy: ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``; it is not changed.
    """

    class LazyTrainer(Trainer):
        @classmethod
        def build_model(cls, cfg: CfgNode) -> nn.Module:
            model: nn.Module = _build(lazy, "model").to(torch.device(cfg.MODEL.DEVICE))
            recompute_parts(model, cfg)
            return model

        @classmethod
        def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
            optimizer: torch.optim.Optimizer = _build(lazy, "optimizer", {"params.model": model})
            for group in (*optimizer.param_groups, optimizer.defaults):
                # What is no plain Python would be refused when a checkpoint is read.
                group.update({key: tuple(value) for key, value in group.items() if isinstance(value, ListConfig)})
            return optimizer

        @classmethod
        def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
            return LRMultiplier(optimizer, _build(lazy, "lr_multiplier"), cfg.SOLVER.MAX_ITER)

        @classmethod
        def build_train_loader(cls, cfg: CfgNode, seed: int = 0) -> Any:
            node = lazy.dataloader.train
            if node._target_ is build_detection_train_loader and not {"sampler", "collate_fn"} & set(node):
                ours = {"_target_": LOADER, "accumulate": cfg.SOLVER.ACCUMULATE, "seed": seed}
                return _build(lazy, "dataloader.train", ours)
            part = cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE
            return _build(lazy, "dataloader.train", {"total_batch_size": part})

        @classmethod
        def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
            values = {"dataset.names": dataset_name}
            node = lazy.dataloader.test
            if node._target_ is build_detection_test_loader and not {"sampler", "collate_fn"} & set(node):
                values["_target_"] = EVAL_LOADER
            return _build(lazy, "dataloader.test", values)

        @classmethod
        def build_loss_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
            if lazy.dataloader.test._target_ is not build_detection_test_loader:
                return None
            mapper, tests = (_build(lazy, f"dataloader.{part}.mapper") for part in ("train", "test"))
            if not isinstance(mapper, TrainMapper) or not isinstance(tests, DatasetMapper):
                return None
            mapper.augmentations, mapper.recompute_boxes = tests.augmentations, False
            dataset = _build(lazy, "dataloader.test.dataset", {"names": dataset_name})
            return build_eval_loader(dataset, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)

        @classmethod
        def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> Any:
            folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
            values, node = {"dataset_name": dataset_name, "output_dir": folder}, lazy.dataloader.evaluator
            if isinstance(node, ListConfig):  # as detectron2's own Panoptic FPN has it
                each = [f"dataloader.evaluator[{index}]" for index in range(len(node))]
                return DatasetEvaluators([_build(lazy, name, values) for name in each])
            if node._target_ is not COCOEvaluator:
                return _build(lazy, "dataloader.evaluator", values)
            return evaluator_of(cfg, dataset_name, folder, partial(_coco_evaluator, lazy))

    return LazyTrainer


def _coco_evaluator(lazy: DictConfig, cfg: CfgNode, dataset_name: str, folder: str) -> Any:
    """What is in the place of detectron2's `COCOEvaluator`."""
    values = {"dataset_name": dataset_name, "output_dir": folder, "_target_": EVALUATOR}
    limit = {"max_dets_per_image": _most_objects(lazy)} | dict(lazy.dataloader.evaluator)
    evaluator = _build(lazy, "dataloader.evaluator", limit | values)
    evaluator.only_seen = cfg.INPUT.ON_BAD_IMAGE == "skip"
    return evaluator


def _most_objects(lazy: DictConfig) -> int:
    """How many objects the detector gives of an image, as far as its nodes say."""
    names = ("test_topk_per_image", "max_detections_per_image")
    found = walk(OmegaConf.to_container(lazy.model, resolve=False))
    counts = [value for name, value in found if name.rpartition(".")[2] in names and isinstance(value, int)]
    return max(counts, default=COCO_MAX_DETS)


def _build(lazy: DictConfig, name: str, values: dict[str, Any] | None = None) -> Any:
    """Instantiate a node, with some of its values set.

    Raises:
        InputError: the node refers to one that is not there, or its callable does not take what is in it.
    """
    node = copy.deepcopy(OmegaConf.select(lazy, name))  # its parent stays, to which its references lead
    for key, value in (values or {}).items():
        parents, _, leaf = key.rpartition(".")
        (OmegaConf.select(node, parents) if parents else node)[leaf] = value
    try:
        return instantiate(node)
    except InputError:
        raise
    except Exception as error:  # what the user's nodes raise, which may be anything
        reason = " ".join(str(error).split())
        raise InputError(f"config node {name}: {reason or type(error).__name__}; correct it or leave it out") from error
