"""Who reads which key beside ``MODEL``, detectron2's of 0.6 and main and ours, when, and what it takes.

The tests walk over all keys, and compare this table with what is read while detectors are built and trained.
"""

from __future__ import annotations

from typing import Any

from hiera_det.d2.config.kinds import SWITCH, TEXT, Kind, choice, number, optional, several, whole
from hiera_det.d2.config.readers import (
    ABOVE_0,
    AMOUNT,
    ANY_NUMBER,
    BELOW_1,
    BETWEEN,
    COUNT,
    FRACTION,
    NAMES,
    POSITIVE,
    SIDE,
    SIZES,
    Reader,
    When,
    on,
    one_of,
)
from hiera_det.engine.loggers import LOGGERS

__all__ = ["RUN_KEYS"]

SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")
MASKS = on("MODEL.MASK_ON")
SQUARE = Kind("the side of a square in pixels, a multiple of 32", lambda value: SIDE.accepts(value) and value % 32 == 0)


def _is_expected(value: Any) -> bool:
    """Entries [task, metric, value, tolerance]."""
    return isinstance(value, list | tuple) and all(
        isinstance(row, list | tuple)
        and len(row) == 4
        and all(isinstance(word, str) for word in row[:2])
        and all(map(ANY_NUMBER.accepts, row[2:]))
        for row in value
    )


RUN_KEYS: tuple[Reader, ...] = (
    Reader("the reader of config files", (), "", {whole(1, 2): "VERSION"}),
    Reader(
        "the start of a run",
        (),
        "",
        {
            TEXT: "OUTPUT_DIR",
            whole(-1, 2**31): "SEED",
            SWITCH: "CUDNN_BENCHMARK",
            several(choice(*LOGGERS)): "LOGGERS",
            choice("highest", "high", "medium", ""): "FLOAT32_PRECISION",
        },
    ),
    Reader("", (), "", {ANY_NUMBER: "GLOBAL.HACK"}),
    Reader(
        "images in training and tests",
        (),
        "INPUT.",
        {
            whole(0, 2**15): "MIN_SIZE_TEST",
            SIDE: "MAX_SIZE_TEST",
            choice("horizontal", "vertical", "none"): "RANDOM_FLIP",
            SWITCH: "CROP.ENABLED LSJ.ENABLED",
            whole(1, 2**40): "MAX_PIXELS",
            choice("fail", "skip"): "ON_BAD_IMAGE",
            choice("BGR", "RGB", "L", "YUV-BT.601", "HSV", "YCbCr", "RGBA", "CMYK"): "FORMAT",
        },
    ),
    Reader(
        "detectron2's resizing",
        (When("INPUT.LSJ.ENABLED", lambda value: value is False, "False"),),
        "INPUT.",
        {SIZES: "MIN_SIZE_TRAIN", choice("choice", "range"): "MIN_SIZE_TRAIN_SAMPLING", SIDE: "MAX_SIZE_TRAIN"},
    ),
    Reader(
        "detectron2's crop",
        (on("INPUT.CROP.ENABLED"),),
        "INPUT.CROP.",
        {choice("relative_range", "relative", "absolute", "absolute_range"): "TYPE", several(POSITIVE, 2, 2): "SIZE"},
    ),
    Reader("masks of training images", (MASKS,), "INPUT.", {choice("polygon", "bitmask"): "MASK_FORMAT"}),
    Reader(
        "large-scale jitter",
        (on("INPUT.LSJ.ENABLED"),),
        "INPUT.LSJ.",
        {SQUARE: "SIZE", several(POSITIVE, 2, 2): "SCALE"},
    ),
    Reader("data loaders", (), "DATASETS.", {NAMES: "TRAIN TEST"}),
    Reader(
        "proposals from files",
        (on("MODEL.LOAD_PROPOSALS"),),
        "DATASETS.",
        {
            NAMES: "PROPOSAL_FILES_TRAIN PROPOSAL_FILES_TEST",
            COUNT: "PRECOMPUTED_PROPOSAL_TOPK_TRAIN PRECOMPUTED_PROPOSAL_TOPK_TEST",
        },
    ),
    Reader(
        "data loaders",
        (),
        "DATALOADER.",
        {
            whole(0, 1024): "NUM_WORKERS",
            SWITCH: "ASPECT_RATIO_GROUPING FILTER_EMPTY_ANNOTATIONS",
            choice(*SAMPLERS): "SAMPLER_TRAIN",
        },
    ),
    Reader(
        "the sampler that repeats rare classes",
        (one_of("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),),
        "DATALOADER.",
        {FRACTION: "REPEAT_THRESHOLD", SWITCH: "REPEAT_SQRT"},
    ),
    Reader(
        "the sampler of a part of the data",
        (one_of("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"),),
        "DATALOADER.",
        {ABOVE_0: "RANDOM_SUBSET_RATIO"},
    ),
    Reader(
        "the training",
        (),
        "SOLVER.",
        {
            choice(*SCHEDULERS): "LR_SCHEDULER_NAME",
            COUNT: "MAX_ITER CHECKPOINT_PERIOD",
            POSITIVE: "BASE_LR",
            AMOUNT: "WEIGHT_DECAY WEIGHT_DECAY_POS_EMBED BIAS_LR_FACTOR",
            optional(AMOUNT): "WEIGHT_DECAY_NORM WEIGHT_DECAY_BIAS",
            FRACTION: "WARMUP_FACTOR",
            whole(): "WARMUP_ITERS IMAGES_PER_EPOCH KEEP_CHECKPOINTS SKIP_NONFINITE",
            choice("linear", "constant"): "WARMUP_METHOD",
            SWITCH: "RESCALE_INTERVAL CLIP_GRADIENTS.ENABLED AMP.ENABLED AUTO_BATCH",
            whole(1, 10**6): "IMS_PER_BATCH ACCUMULATE",
            whole(0, 10**6): "REFERENCE_WORLD_SIZE",
            choice("ADAMW", "SGD"): "OPTIMIZER",
            ABOVE_0: "LAYER_DECAY",
            number(0.0, 1e6): "EPOCHS CHECKPOINT_EPOCHS CHECKPOINT_MINUTES",
            choice("linear", "sqrt", "none"): "SCALING",
            BELOW_1: "EMA_DECAY",
            choice("ddp", "fsdp"): "PARALLEL",
        },
    ),
    Reader(
        "schedules with steps",
        (one_of("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "WarmupStepWithFixedGammaLR"),),
        "SOLVER.",
        {ABOVE_0: "GAMMA"},
    ),
    Reader(
        "WarmupMultiStepLR",
        (one_of("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"),),
        "SOLVER.",
        {several(whole()): "STEPS", several(BETWEEN): "MILESTONES"},
    ),
    Reader(
        "WarmupStepWithFixedGammaLR",
        (one_of("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"),),
        "SOLVER.",
        {whole(0, 1000): "NUM_DECAYS"},
    ),
    Reader(
        "WarmupCosineLR", (one_of("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),), "SOLVER.", {AMOUNT: "BASE_LR_END"}
    ),
    Reader(
        "SGD",
        (one_of("SOLVER.OPTIMIZER", "SGD"),),
        "SOLVER.",
        {BELOW_1: "MOMENTUM", SWITCH: "NESTEROV"},
    ),
    Reader(
        "AdamW",
        (one_of("SOLVER.OPTIMIZER", "ADAMW"),),
        "SOLVER.",
        {several(BELOW_1, 2, 2): "BETAS"},
    ),
    Reader(
        "the clipping of gradients",
        (on("SOLVER.CLIP_GRADIENTS.ENABLED"),),
        "SOLVER.CLIP_GRADIENTS.",
        {choice("value", "norm", "full_model"): "CLIP_TYPE", POSITIVE: "CLIP_VALUE"},
    ),
    Reader(
        "the clipping of norms",
        (on("SOLVER.CLIP_GRADIENTS.ENABLED"), one_of("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", "full_model")),
        "SOLVER.CLIP_GRADIENTS.",
        {
            Kind(
                "a number above 0, or \"float('inf')\"",
                lambda value: POSITIVE.accepts(value) or value == float("inf"),
            ): "NORM_TYPE"
        },
    ),
    Reader("mixed precision", (on("SOLVER.AMP.ENABLED"),), "SOLVER.AMP.", {choice("float16", "bfloat16"): "PRECISION"}),
    Reader(
        "evaluation",
        (),
        "TEST.",
        {
            Kind("a list of [task, metric, value, tolerance]", _is_expected): "EXPECTED_RESULTS",
            whole(): "EVAL_PERIOD PATIENCE",
            TEXT: "BEST",
            number(0.0, 1e6): "EVAL_EPOCHS",
            whole(1, 10**6): "DETECTIONS_PER_IMAGE IMS_PER_BATCH",
            SWITCH: "PRECISE_BN.ENABLED NMS_ACROSS_CLASSES REPORT VAL_LOSS",
            choice("bfloat16", "float16", ""): "AUTOCAST",
            choice("pycocotools", "faster-coco-eval", "detectron2"): "COCO_EVAL",
            whole(0, 10**6): "PICTURES",
        },
    ),
    Reader(
        "pictures of predictions",
        (When("TEST.PICTURES", lambda value: value > 0, "1 or more"),),
        "TEST.",
        {FRACTION: "PICTURES_THRESHOLD"},
    ),
    Reader(
        "test-time augmentation",
        (one_of("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),),
        "TEST.",
        {SWITCH: "AUG.ENABLED"},
    ),
    Reader(
        "test-time augmentation",
        (on("TEST.AUG.ENABLED"),),
        "TEST.AUG.",
        {SIZES: "MIN_SIZES", SIDE: "MAX_SIZE", SWITCH: "FLIP"},
    ),
    Reader(
        "the evaluation of keypoints",
        (on("MODEL.KEYPOINT_ON"),),
        "TEST.",
        {several(POSITIVE): "KEYPOINT_OKS_SIGMAS"},
    ),
    Reader("PreciseBN", (on("TEST.PRECISE_BN.ENABLED"),), "TEST.PRECISE_BN.", {COUNT: "NUM_ITER"}),
)
