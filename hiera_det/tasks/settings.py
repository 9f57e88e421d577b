"""The settings of the plain trainings: what flags or Python fill, checked when they are made.

A setting that is None is the recipe's of the size (`hiera_det.tasks.recipes`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch

from hiera_det.data.bad_images import BadImages
from hiera_det.data.limits import MAX_PIXELS
from hiera_det.engine.best import AUTO
from hiera_det.engine.machine import workers_by_cores
from hiera_det.engine.processes import check_device, default_device, process_count
from hiera_det.engine.settings import CommonSettings, TrainSettings
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import FRAME_STRIDE
from hiera_det.modeling.mae import CLIP_MASK_RATIO, IMAGE_MASK_RATIO
from hiera_det.modeling.masking import mask_from_noise
from hiera_det.modeling.variants import get_variant
from hiera_det.tasks.recipes import Recipe, Recipes, scaled_lr, warmup_for
from hiera_det.tasks.transforms import UNIT, Augmentation, check_image_size

__all__ = [
    "CLASSES",
    "CLIPS",
    "REGULARISERS",
    "ClassifierSettings",
    "Mixing",
    "PretrainSettings",
    "Schedule",
    "TaskSettings",
]

logger = logging.getLogger("hiera_det.training")

#: What a classifier's evaluation gives; with ``ema_decay`` also under "ema/".
METRICS = ("top1", "top5", "val_loss")
#: Fields in which a checkpoint must agree: as they are given, the recipe's where they are not, and the model's.
AS_GIVEN = ("batch_size", "accumulate", "clip_norm", "ema_decay", "seed")
RECIPES = ("epochs", "lr", "warmup_epochs", "weight_decay", "drop_path")
REGULARISERS = ("mixup", "cutmix", "label_smoothing", "auto_augment", "random_erase", "dropout")
CLIPS = ("stride", "repeats")
DECODERS = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")
MODELS = ("image_size", "embed_dim", "num_heads", "depths")
#: The word for a classifier's classes in a checkpoint, which may never differ.
CLASSES = "the classes"
#: Fields that the engine has under the same names.
ENGINES = ("batch_size", "device", *(field.name for field in fields(CommonSettings)))


@dataclass(frozen=True)
class Schedule:
    """How long is trained, and how fast.

    Attributes:
        epochs: passes over the images.
        lr: highest learning rate.
        warmup_epochs: those over which it rises.
    """

    epochs: int
    lr: float
    warmup_epochs: float


@dataclass(frozen=True, kw_only=True)
class TaskSettings(CommonSettings):
    """What the plain trainings have in common.

    Attributes besides those of all trainings:
        output: folder for checkpoints, metrics, log and pictures.
        size: published size, whose dimensions and recipe are the defaults; "" for the weights' file's, else base.
        image_size: side of the images in pixels.
        embed_dim: channels of stage 1, in place of the size's.
        num_heads: attention heads of stage 1, in place of the size's.
        depths: blocks of stages 1-4, in place of the size's.
        drop_path: stochastic depth of the last block.
        epochs: passes over the images.
        batch_size: images of a step, of all processes together.
        lr: highest learning rate, at this very batch; the recipe's is scaled to the batch, linearly.
        warmup_epochs: those over which it rises.
        weight_decay: of AdamW.
        use_checkpoint: recompute blocks when going back, to save memory.
        precision: a key of `hiera_det.engine.precision.PRECISIONS`; "" for bfloat16 on GPUs and float32 on a CPU.
        device: ``cuda`` or ``cpu``.
        workers: processes that read images, for each that trains; None for 4, or the cores there are.
        max_pixels: largest image, see `hiera_det.data.images`.
        on_bad_image: what becomes of files that cannot be read, see `hiera_det.data.bad_images`: ``fail`` ends the run;
            with ``skip`` another file, which the seed decides, takes the place of one in training, and an evaluation
            leaves it out.
        checkpoint_epochs: epochs from a checkpoint to the next; ``checkpoint_minutes`` come in between.
        eval_batch_size: images of an evaluation at a time.
        eval_epochs: epochs from an evaluation to the next; the last is always evaluated.
        best: metric whose best weights are kept in ``model_best.pth``; "" for none.
        resume: go on from the checkpoint in ``output``.
        auto_resume: go on where there is one, else start.
        allow_changed: settings that may differ from the checkpoint's, such as ``lr``.

    Raises:
        InputError: a value that cannot be used, by the user's word.
    """

    output: str
    size: str = ""
    image_size: int = 224
    embed_dim: int | None = None
    num_heads: int | None = None
    depths: Sequence[int] | None = None
    drop_path: float | None = None
    epochs: int | None = None
    batch_size: int = 64
    lr: float | None = None
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    use_checkpoint: bool = False
    precision: str = ""
    device: str = field(default_factory=default_device)
    workers: int | None = None
    max_pixels: int = MAX_PIXELS
    on_bad_image: str = "fail"
    checkpoint_epochs: int = 1
    eval_batch_size: int = 64
    eval_epochs: int = 1
    best: str = ""
    resume: bool = False
    auto_resume: bool = False
    allow_changed: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_device(self.device, self.word("device"))
        check_image_size(self.image_size, self.word("image_size"))
        if self.size:
            get_variant(self.size)
        self.check_amounts(*self._given("lr", "warmup_epochs", "weight_decay"))
        self.bad_images()
        self.check_counts(
            1, "checkpoint_epochs", "eval_batch_size", "eval_epochs", "max_pixels", *self._given("epochs")
        )
        self._check_share(*self._given("drop_path"))
        if self.allow_changed and not (self.resume or self.auto_resume):
            raise self.refusal("allow_changed", f"is for {self.word('resume')}, which is not given")
        self.train_settings(Schedule(1, 0.0, 0.0), 1)  # which checks the settings of the engine

    def bad_images(self) -> BadImages:
        """What takes the files that cannot be read.

        Raises:
            InputError: ``on_bad_image`` is unknown.
        """
        return BadImages(self.on_bad_image, self.word("on_bad_image"))

    def _given(self, *names: str) -> list[str]:
        """Those that are not left to the recipe."""
        return [name for name in names if getattr(self, name) is not None]

    def _check_best(self, names: Sequence[str]) -> None:
        """Refuse a metric that no evaluation has."""
        metrics = ("", AUTO, *names, *(f"ema/{name}" for name in names if self.ema_decay))
        if self.best not in metrics:
            raise self.refusal("best", f"choose one of {', '.join(metrics[1:])}, or '' for none")

    def _check_share(self, *names: str) -> None:
        """Refuse what is no part of something, from 0 to below 1."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise self.refusal(name, "must be at least 0 and below 1")

    def model_fields(self, size: str) -> dict[str, Any]:
        """The arguments of `Hiera` that the settings name, plain values, the size's own where there is none."""
        variant = get_variant(size)
        return {
            "embed_dim": self.embed_dim or variant.embed_dim,
            # Another width need not divide by the size's heads.
            "num_heads": self.num_heads or (variant.num_heads if not self.embed_dim else 1),
            "depths": list(self.depths or variant.depths),
            "pretrain_size": self.image_size,
            "frames": 0,
        }

    def recipe(self, size: str, recipes: Recipes) -> Recipe:
        """A size's recipe with the settings in its place; says in the log whose it is."""
        name = size if size in recipes else recipes.nearest(size)
        logger.info("recipe of size %s%s", name, f", the nearest to {size}" if name != size else "")
        own: dict[str, Any] = {"drop_path_rate": self.drop_path, "weight_decay": self.weight_decay}
        return replace(recipes[name], **{field: value for field, value in own.items() if value is not None})

    def schedule(self, recipe: Recipe) -> Schedule:
        """Epochs and learning rate; what was scaled or shortened goes to the log."""
        epochs, lr, warmup = self.epochs or recipe.epochs, self.lr, self.warmup_epochs
        if lr is None:
            lr = scaled_lr(recipe.lr, recipe.lr_batch, self.batch_size, self.lr_power)
            of = recipe.lr, recipe.lr_batch
            logger.info("lr %.3g: the recipe's %g at batch %d, for batch %d", lr, *of, self.batch_size)
        if warmup is None:
            warmup = warmup_for(epochs, recipe)
            if warmup < recipe.warmup_epochs:
                whole = recipe.warmup_epochs, recipe.epochs
                logger.info("warm-up %g epochs: the recipe's %g are for %d", warmup, *whole)
        return Schedule(epochs, lr, warmup)

    @property
    def part(self) -> int:
        """Images of one forward in one process."""
        return self.batch_size // (process_count() * self.accumulate)

    def told_images(self, frames: int = 0) -> str:
        """The size of images or clips, as people say it."""
        return f"{self.image_size}x{self.image_size} pixels" + (f", clips of {frames} frames" if frames else "")

    def reading(self) -> int:
        """How many processes read images; what there are not the cores for goes to the log."""
        return workers_by_cores(self.workers, self.word("workers"))

    def train_settings(self, schedule: Schedule, epoch_iterations: int) -> TrainSettings:
        """The engine's settings, for epochs of so many steps."""
        return TrainSettings(
            output=str(self.output),
            iterations=schedule.epochs * epoch_iterations,
            processes=process_count(),
            precision=self.precision or ("bfloat16" if self.device == "cuda" else "float32"),
            checkpoint_period=self.checkpoint_epochs * epoch_iterations,
            best=self.best,
            workers=self.workers or 0,
            **{name: getattr(self, name) for name in ENGINES},
        )

    #: Of the batch, in its learning rate; see `scaled_lr`.
    lr_power: ClassVar[float] = 1.0
    #: Fields in which a checkpoint must agree to be gone on with.
    compared: ClassVar[tuple[str, ...]] = (*AS_GIVEN, *RECIPES, *MODELS)

    def unchanged(self, recipe: Recipe, schedule: Schedule, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint must agree in to be gone on with, by the user's words."""
        own = {name: getattr(self, name) for name in AS_GIVEN}
        own |= {"epochs": schedule.epochs, "lr": schedule.lr, "warmup_epochs": schedule.warmup_epochs}
        own |= {"weight_decay": recipe.weight_decay, "drop_path": recipe.drop_path_rate}
        # By the flag's name: nobody knows the model's field.
        own |= {"image_size" if name == "pretrain_size" else name: value for name, value in fields.items()}
        return {self.word(name): value for name, value in own.items()} | {"the processes": process_count()}

    def derived(self) -> Mapping[str, Sequence[str]]:
        """Which of the `unchanged` follow from others, because nobody gives them, and from which."""
        sources = {"lr": "batch_size", "warmup_epochs": "epochs"}
        found = {self.word(name): [self.word(of)] for name, of in sources.items() if getattr(self, name) is None}
        return found | {"the files": ["the number of files", CLASSES]}


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How images and labels of a batch are blended; the published recipe's values.

    Attributes:
        mixup: parameter of the beta distribution for blending whole images; 0 for never.
        cutmix: the same for pasting rectangles; where both are on, one of them is drawn for each batch.
        label_smoothing: part of a label that goes to all classes.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    label_smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(TaskSettings, Mixing, Augmentation):
    """Training a classifier.

    Attributes besides those of its bases:
        train: folder of a folder per class.
        val: the same classes, to evaluate on.
        weights: a file, URL, ``hf://`` or ``timm://`` to start from; "" for random weights.
        keep_head: take over the last layer of a file that does not name its classes.
        frames: of a clip, where videos are classified; None for those of the weights' model, which may be of images.
        stride: frames of 30 a second from one of a clip's to the next.
        repeats: clips of a video in a step (repeated augmentation, Hoffer et al. 2020).
        views: of a video, crops and clips, over which its evaluation is averaged.
        layer_decay: factor on the learning rate from a block to the one before.
        dropout: before the last layer.
    """

    train: str
    val: str
    weights: str = ""
    keep_head: bool = False
    frames: int | None = None
    stride: float = 4
    repeats: int = 2
    views: Sequence[int] = (3, 5)
    layer_decay: float | None = None
    dropout: float = 0.0
    best: str = "top1"

    compared: ClassVar[tuple[str, ...]] = (*TaskSettings.compared, *REGULARISERS, "layer_decay", "frames")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.random_erase <= 1:
            raise self.refusal("random_erase", "must be from 0 to 1")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise self.refusal("layer_decay", "must be above 0 and at most 1")
        for name in ("mixup", "cutmix"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise self.refusal(name, "must not be negative")
        self._check_share("dropout", "label_smoothing")
        self.check_counts(1, "repeats")
        if self.frames is not None and (self.frames < 0 or self.frames % FRAME_STRIDE):
            raise self.refusal("frames", f"must be a multiple of {FRAME_STRIDE}; 0 for images")
        if not self.stride > 0:
            raise self.refusal("stride", "must be above 0")
        if len(self.views) != 2 or self.views[0] not in (1, 3) or self.views[1] < 1:
            raise self.refusal("views", "give 1 or 3 crops and at least 1 clip")
        self._check_best(METRICS)


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(TaskSettings):
    """Pretraining a masked autoencoder, on images or on videos.

    Attributes besides those of its base:
        images: folder of images, at any depth.
        videos: folder of videos, in place of images.
        val: folder of others, on which the same loss is measured, of masks that stay the same; "" for none.
        mask_ratio: part that is left out; None for 0.6, of clips 0.9.
        frames: of a clip; None for 16.
        stride: frames of 30 a second from one of a clip's to the next.
        pictures: images in ``reconstructions.png``; 0 for none.
        picture_epochs: epochs from a picture to the next.
        decoder_embed_dim: channels of the decoder.
        decoder_depth: its blocks.
        decoder_num_heads: its attention heads.
    """

    images: str = ""
    videos: str = ""
    val: str = ""
    mask_ratio: float | None = None
    frames: int | None = None
    stride: float = 4
    pictures: int = 8
    picture_epochs: int = 10
    best: str = AUTO
    decoder_embed_dim: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None

    compared: ClassVar[tuple[str, ...]] = (*TaskSettings.compared, "mask_ratio", "frames", *DECODERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        images, videos = self.word("images"), self.word("videos")
        if bool(self.images) == bool(self.videos):
            raise InputError(f"give one folder to pretrain on: {images} DIR or {videos} DIR")
        if self.images and self.frames is not None:
            raise InputError(f"{self.word('frames')} is for clips: give {videos} DIR in place of {images}")
        if self.videos and (self.clip_frames < FRAME_STRIDE or self.clip_frames % FRAME_STRIDE):
            raise self.refusal("frames", f"must be a positive multiple of {FRAME_STRIDE}")
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise self.refusal("mask_ratio", "must be above 0 and below 1")
        self.check_counts(0, "pictures")
        self.check_counts(1, "picture_epochs")
        self._check_best(("val_loss",))
        if not self.val and (self.patience or self.best not in (AUTO, "")):
            word = "patience" if self.patience else "best"
            raise self.refusal(word, f"nothing is measured: give {self.word('val')} DIR")
        units = max(1, self.clip_frames // FRAME_STRIDE) * (self.image_size // UNIT) ** 2
        mask_from_noise(torch.zeros(1, units), self.ratio)  # refuses a ratio that leaves nothing in

    @property
    def what(self) -> str:
        """What is pretrained on."""
        return "videos" if self.videos else "images"

    @property
    def clip_frames(self) -> int:
        """Frames of the clips; 0 for images."""
        if not self.videos:
            return 0
        return 16 if self.frames is None else self.frames

    @property
    def ratio(self) -> float:
        """The part that is left out."""
        if self.mask_ratio is not None:
            return self.mask_ratio
        return CLIP_MASK_RATIO if self.videos else IMAGE_MASK_RATIO

    def model_fields(self, size: str) -> dict[str, Any]:
        """The arguments of `HieraMAE` that the settings name."""
        decoder = {name: getattr(self, name) for name in DECODERS}
        own = {name: value for name, value in decoder.items() if value is not None}
        return super().model_fields(size) | {"frames": self.clip_frames} | own
