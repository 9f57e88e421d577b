"""The evaluation of a detector by what it predicts: boxes and masks, semantic maps, or both and the two joined."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator, DatasetEvaluators, SemSegEvaluator

from hiera_det.d2.predict.evaluation import build_evaluator

__all__ = ["evaluator_of", "parts_of"]

logger = logging.getLogger("hiera_det.evaluation")

#: What computes panoptic quality; it is on no package index under this name.
PANOPTIC = "panopticapi"


def evaluator_of(
    cfg: CfgNode,
    dataset_name: str,
    output_dir: str,
    build_coco: Callable[[CfgNode, str, str], DatasetEvaluator] = build_evaluator,
) -> DatasetEvaluator:
    """COCO's AP, for semantic maps detectron2's mIoU, and for Panoptic FPN both and PQ, where its package is installed.

    Args:
        cfg: the config.
        dataset_name: a registered data set, for semantic maps with ``stuff_classes`` and ``ignore_label``.
        output_dir: folder for what is predicted.
        build_coco: what builds that of COCO's AP, called with the three.

    Raises:
        InputError: see `hiera_det.d2.predict.evaluation.check_coco_eval`.
    """
    kind = cfg.MODEL.META_ARCHITECTURE
    if kind not in ("PanopticFPN", "SemanticSegmentor"):
        return build_coco(cfg, dataset_name, output_dir)
    evaluators = [SemSegEvaluator(dataset_name, output_dir=output_dir)]
    if kind == "PanopticFPN":
        evaluators.append(build_coco(cfg, dataset_name, output_dir))
        if importlib.util.find_spec(PANOPTIC) and MetadataCatalog.get(dataset_name).get("panoptic_json"):
            evaluators.append(COCOPanopticEvaluator(dataset_name, output_dir))
        else:
            logger.info("no PQ: it takes a data set with a panoptic_json, and the package %s", PANOPTIC)
    return DatasetEvaluators(evaluators)


def parts_of(evaluator: DatasetEvaluator) -> list[DatasetEvaluator]:
    """The evaluators that one consists of."""
    return list(evaluator._evaluators) if isinstance(evaluator, DatasetEvaluators) else [evaluator]
