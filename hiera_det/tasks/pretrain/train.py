"""MAE pretraining on images or videos, from flags to the file that all models of the family start from."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hiera_det.cli.plans import field_settings, model_fields, plan_of, recipe_of, settings_of
from hiera_det.data.image_folder import find_files_below
from hiera_det.data.video import VIDEO_SUFFIXES
from hiera_det.engine.checkpoint import checkpoint_to_resume
from hiera_det.engine.loop import Loop
from hiera_det.engine.optimizer import build_adamw
from hiera_det.engine.order import Batch, EpochOrder, Samples, collate, unwrap
from hiera_det.engine.processes import is_main_process, process_device
from hiera_det.engine.randomness import derive, seed_all
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import FRAME_STRIDE
from hiera_det.modeling.mae import CLIP_MASK_RATIO, IMAGE_MASK_RATIO, HieraMAE
from hiera_det.modeling.masking import mask_from_noise
from hiera_det.tasks.recipes import PRETRAINING
from hiera_det.tasks.results import leave_results
from hiera_det.tasks.transforms import check_image_size, clip_reader, cropped_reader, eval_reader

__all__ = ["check", "pretrain"]

logger = logging.getLogger("hiera_det.training")

PICTURE = "reconstructions.png"


def check(args: argparse.Namespace) -> None:
    """Refuse flags that cannot be used, before processes are started.

    Raises:
        InputError: see the line.
    """
    if bool(args.images) == bool(args.videos):
        raise InputError("give one folder to pretrain on: --images DIR or --videos DIR")
    if args.images and args.frames is not None:
        raise InputError("--frames is for clips: give --videos DIR in place of --images")
    args.frames = (args.frames if args.frames is not None else 16) if args.videos else 0
    if args.videos and (args.frames < FRAME_STRIDE or args.frames % FRAME_STRIDE):
        raise InputError(f"--frames {args.frames}: must be a positive multiple of {FRAME_STRIDE}")
    if args.mask_ratio is None:
        args.mask_ratio = CLIP_MASK_RATIO if args.videos else IMAGE_MASK_RATIO
    if not 0 < args.mask_ratio < 1:
        raise InputError(f"--mask-ratio {args.mask_ratio}: must be above 0 and below 1")
    if args.pictures < 0 or args.picture_epochs < 1:
        raise InputError("--pictures must be at least 0, --picture-epochs at least 1")
    check_image_size(args.image_size)
    units = max(1, args.frames // FRAME_STRIDE) * (args.image_size // 32) ** 2
    mask_from_noise(torch.zeros(1, units), args.mask_ratio)  # refuses a ratio that leaves nothing in
    recipe_of(args, PRETRAINING[args.size or "base"])
    if args.num_gpus > 1:
        _inputs(args)  # once here, where a mistake is one line and not one for each process


def pretrain(args: argparse.Namespace) -> int:
    """Pretrain, in every process.

    Args:
        args: flags that `check` has seen.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        InputError: data, flags or a checkpoint cannot be used.
    """
    resumed, files = _inputs(args)
    size = args.size or "base"
    recipe = recipe_of(args, PRETRAINING[size])
    order = EpochOrder(len(files), args.batch_size, args.accumulate, args.seed)
    logger.info("%d %s, recipe of size %s", len(files), "videos" if args.videos else "images", size)
    if args.videos:
        logger.info("the recipe is that for images; for clips, only the mask ratio and the stride are the paper's")
    plan = plan_of(args, recipe, args.output)
    fields = _fields(args, size)
    device = process_device(args.device)
    seed_all(derive(args.seed, 0))
    model = HieraMAE(**fields, drop_path_rate=recipe.drop_path_rate, use_checkpoint=args.use_checkpoint).to(device)
    optimizer = build_adamw(model, recipe.betas, recipe.weight_decay, recipe.layer_decay)
    settings = settings_of(plan, recipe, args, {"the number of files": len(files), "--mask-ratio": args.mask_ratio})
    settings |= field_settings(fields)
    samples = Samples(files, _reader(args))
    loop = Loop(model, optimizer, samples, order, _loss(args.mask_ratio), plan, settings, {"config": fields})
    if resumed:
        loop.resume(resumed)
    draw = _drawer(args, files, model, device)

    def after_epoch(epoch: int) -> None:
        if epoch % args.picture_epochs == 0 or epoch == plan.epochs:
            draw()

    stopped = loop.run(after_epoch)
    if not stopped:
        leave_results(args.output, model, fields)
    return stopped


def _inputs(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The checkpoint to resume or "", and the files to train on."""
    resumed = checkpoint_to_resume(args.output, args.resume, args.auto_resume)
    if args.videos:
        return resumed, find_files_below(args.videos, VIDEO_SUFFIXES, "videos")
    return resumed, find_files_below(args.images)


def _fields(args: argparse.Namespace, size: str) -> dict[str, Any]:
    """The arguments of the model, plain values."""
    flags = {name: getattr(args, name) for name in ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")}
    return model_fields(args, size) | {name: value for name, value in flags.items() if value is not None}


def _reader(args: argparse.Namespace) -> Callable[[str], Tensor]:
    if args.videos:
        return clip_reader(args.image_size, args.frames, args.stride)
    return cropped_reader(args.image_size)


def _loss(mask_ratio: float) -> Callable[[nn.Module, Batch], Tensor]:
    """Images to the loss of the pixels that were left out."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        output: Tensor = model(batch.inputs, mask_ratio=mask_ratio)[0]
        return output

    return loss


def _drawer(args: argparse.Namespace, files: list[str], model: HieraMAE, device: torch.device) -> Callable[[], None]:
    """What draws the same few images or clips each time, in the main process."""
    if not args.pictures or not is_main_process():
        return lambda: None
    from hiera_det.tasks.pretrain.pictures import draw_reconstructions

    chosen = [files[place * len(files) // args.pictures] for place in range(min(args.pictures, len(files)))]
    samples = Samples(chosen, _reader(args) if args.videos else eval_reader(args.image_size))
    inputs = torch.cat([unwrap(collate([samples[index, 0]])).inputs for index in range(len(chosen))]).to(device)

    def draw() -> None:
        path = os.path.join(args.output, PICTURE)
        draw_reconstructions(model, inputs, args.mask_ratio, path)
        logger.info("reconstructions: %s", path)

    return draw
