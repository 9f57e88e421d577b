"""Every config key that this project adds to detectron2's, with its default and meaning."""

from __future__ import annotations

from detectron2.config import CfgNode

__all__ = ["add_hiera_config"]


def add_hiera_config(cfg: CfgNode) -> None:
    """Add this project's keys to a detectron2 config, in place.

    Call it before merging a file that uses them.
    """
    hiera = cfg.MODEL.HIERA = CfgNode()
    # tiny, small, base, base_plus, large or huge
    hiera.SIZE = "base"
    # Other than the size's own: channels and heads of stage 1 (0: the size's), blocks per stage (empty: the size's)
    hiera.EMBED_DIM = 0
    hiera.NUM_HEADS = 0
    hiera.DEPTHS = []
    # Hidden width of the MLPs over their channels
    hiera.MLP_RATIO = 4.0
    # Stochastic depth at the last block, rising linearly from 0 at the first
    hiera.DROP_PATH_RATE = 0.0
    # Image side in pixels that the position embedding is learned at
    hiera.PRETRAIN_SIZE = 224
    # "interpolate": one table, resampled. "tile": the same, repeated. "absolute_win": a part that repeats with the mask
    # unit plus a resampled one
    hiera.POS_EMBED = "interpolate"
    # Height and width in tokens of the resampled part of "absolute_win", and whether it is resampled with antialiasing
    hiera.POS_GRID = [7, 7]
    hiera.POS_ANTIALIAS = False
    # Sides of the attention windows of stages 1-4 in tokens, 0 for global; [8, 4, 14, 7] as in SAM 2's HieraDet
    hiera.WINDOW_SIZE = [8, 4, 0, 0]
    # Blocks, counted from 0 over all stages, that attend globally whatever their stage's window; where none is named
    # and stage 3 has windows, this many of its blocks, spread as SAM 2 does
    hiera.GLOBAL_BLOCKS = []
    hiera.NUM_GLOBAL_BLOCKS = 3
    # What windows that reach over the image's edge do with the missing tokens: "zero" attends to them, as SAM 2's
    # weights expect; "mask" leaves them out
    hiera.WINDOW_PADDING = "zero"
    # Learned factors on the residual branches
    hiera.LAYER_SCALE = False
    # Widen the shortcuts between stages by a linear layer; False: the input's maximum and mean side by side (timm)
    hiera.PROJECT_SHORTCUT = True
    # Stages that the bare trunk returns and that the FPN stands on
    hiera.OUT_FEATURES = ["stage1", "stage2", "stage3", "stage4"]
    # Stage that the simple feature pyramid starts from
    hiera.PYRAMID_FEATURE = "stage3"
    # Recompute in the backward pass what would be kept: less memory, a third more time. Everything, block by block
    # in the trunk; or the stages that are named, "neck" and "heads"
    hiera.USE_CHECKPOINT = False
    hiera.CHECKPOINT_STAGES = []
    # Stages whose blocks recompute the GELU of their MLP: a quarter less memory in them, a few percent more time
    hiera.RECOMPUTE_GELU = []
    # Compile the trunk with torch.compile: the first steps of training and evaluation take minutes for it
    hiera.COMPILE = False
    # Pad images at the bottom and right to squares of this side in pixels; 0 pads to multiples of 32 only
    hiera.SQUARE_PAD = 0

    # Levels above p5: "pool" for p6 by max-pool, "conv" for p6 and p7 by convolutions; "" for conv where a head looks
    # at p7
    cfg.MODEL.FPN.TOP = ""
    # Norm of the RPN's hidden convolutions under HieraRPNHead: "LN" or "" for none
    cfg.MODEL.RPN.NORM = ""
    # ADAMW or SGD
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # AdamW's decay rates of the two moments
    cfg.SOLVER.BETAS = [0.9, 0.999]
    # Weight decay of the position embeddings
    cfg.SOLVER.WEIGHT_DECAY_POS_EMBED = 0.0
    # Learning rate of the stem over that of the heads, to the power 1 / (blocks + 1), per block; 1.0 for one rate
    cfg.SOLVER.LAYER_DECAY = 1.0
    # Length of the training in epochs, as many images as the training JSONs list; 0 for SOLVER.MAX_ITER
    cfg.SOLVER.EPOCHS = 0.0
    # Parts of the training, such as [0.9, 0.95], after which the learning rate drops; empty for SOLVER.STEPS
    cfg.SOLVER.MILESTONES = []
    # Epochs between checkpoints and between evaluations; 0 for SOLVER.CHECKPOINT_PERIOD and TEST.EVAL_PERIOD
    cfg.SOLVER.CHECKPOINT_EPOCHS = 0.0
    cfg.TEST.EVAL_EPOCHS = 0.0
    # Most minutes without a checkpoint, besides those of the period: by the clock, and at the end of each epoch unless
    # that would take more than 5% of the time; the newest two of them are kept. 0 for those of the period alone
    cfg.SOLVER.CHECKPOINT_MINUTES = 10.0
    # Images of an epoch; found in the data where the training needs it
    cfg.SOLVER.IMAGES_PER_EPOCH = 0
    # What another SOLVER.IMS_PER_BATCH than the config was written for does to its learning rate: "linear", "sqrt" or,
    # for nothing at all, "none"; iterations change in inverse proportion. Keys on the command line stand as given
    cfg.SOLVER.SCALING = "linear"
    # Forward and backward passes per step of the optimizer, each over that part of SOLVER.IMS_PER_BATCH
    cfg.SOLVER.ACCUMULATE = 1
    # Before a training on a GPU, find how many of the largest images fit at a time, and set SOLVER.ACCUMULATE by it
    cfg.SOLVER.AUTO_BATCH = False
    # Number format of SOLVER.AMP: "float16", on GPUs only, or "bfloat16"
    cfg.SOLVER.AMP.PRECISION = "float16"
    # Decay per step of an average of the weights, evaluated and saved beside them; 0 for none
    cfg.SOLVER.EMA_DECAY = 0.0
    # Newest checkpoints that stay, averaged weights with them; 0 for all
    cfg.SOLVER.KEEP_CHECKPOINTS = 0
    # Steps in a row that may be left out because a loss or gradient is not finite; 0 ends the run at the first
    cfg.SOLVER.SKIP_NONFINITE = 0
    # Several processes: "ddp" keeps the model in each, "fsdp" shares it out among them (PyTorch 2.6 or newer)
    cfg.SOLVER.PARALLEL = "ddp"

    # Large-scale jitter (Ghiasi et al. 2021, "Simple Copy-Paste"): fit the image into a square of this side in pixels
    # times a factor drawn from the range, and cut that square out
    cfg.INPUT.LSJ = CfgNode()
    cfg.INPUT.LSJ.ENABLED = False
    cfg.INPUT.LSJ.SIZE = 1024
    cfg.INPUT.LSJ.SCALE = [0.1, 2.0]
    # Where the lines of metrics.json go besides TensorBoard: "csv" for metrics.csv, "wandb", "mlflow"
    cfg.LOGGERS = []
    # Largest image in pixels, by its header; larger ones are refused before they fill the memory
    cfg.INPUT.MAX_PIXELS = 100_000_000
    # An image that cannot be read ends the run ("fail") or is replaced in training and left out of evaluation ("skip")
    cfg.INPUT.ON_BAD_IMAGE = "fail"
    # Images per GPU (or process) and forward in evaluation and prediction; above 1, images of like size go together
    cfg.TEST.IMS_PER_BATCH = 1
    # Evaluate and predict in "bfloat16" or "float16" where that is enough; "" for float32 throughout
    cfg.TEST.AUTOCAST = ""
    # Who computes AP: "pycocotools", whose numbers papers report; "faster-coco-eval" for the same numbers in a fraction
    # of the time (pip install faster-coco-eval); "detectron2" for its own compiled operators
    cfg.TEST.COCO_EVAL = "pycocotools"
    # Measure the losses on the images of an evaluation too: val_loss, and its parts
    cfg.TEST.VAL_LOSS = True
    # Metric whose best weights are kept in model_best.pth, such as "bbox/AP", "ema/segm/AP" or "val_loss"; "auto" for
    # box AP, of the weights or their average, whichever is better, or what the task has instead; "" for none
    cfg.TEST.BEST = "auto"
    # Evaluations in a row without a better one of these that end the training; 0 for any number
    cfg.TEST.PATIENCE = 0
    # One class for one object: non-maximum suppression over all classes together, after that over each
    cfg.TEST.NMS_ACROSS_CLASSES = False
    # Write report.html after each evaluation and at the end
    cfg.TEST.REPORT = True
    # Held-out images drawn at the end of training, and the score from which predictions are drawn; 0 for the one of the
    # best F1 at the last evaluation
    cfg.TEST.PICTURES = 8
    cfg.TEST.PICTURES_THRESHOLD = 0.0
