"""MAE pretraining on images or videos, from settings to the file that all models of the family start from."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiera_det.data.image_folder import SUFFIXES, find_files_below
from hiera_det.data.video import VIDEO_SUFFIXES
from hiera_det.engine.loader import unwrap
from hiera_det.engine.processes import is_main_process, process_device, process_rank, sum_over_processes
from hiera_det.engine.randomness import derive, generators_kept, seed_all
from hiera_det.engine.stop import Stop
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.files import WriteError
from hiera_det.modeling.mae import HieraMAE
from hiera_det.tasks.batches import Batch, collate, eval_loader, samples_of
from hiera_det.tasks.recipes import PRETRAINING
from hiera_det.tasks.settings import PretrainSettings
from hiera_det.tasks.training import OF_CHECKPOINT, RANDOM, Parts, list_hash, run_task
from hiera_det.tasks.transforms import Reader, clip_reader, cropped_reader, eval_reader

__all__ = ["pretrain", "read_inputs"]

logger = logging.getLogger("hiera_det.training")

PICTURE = "reconstructions.png"


def read_inputs(settings: PretrainSettings) -> tuple[list[str], list[str]]:
    """Find what the settings name.

    Returns:
        the files to train on, and those to measure the loss on.

    Raises:
        InputError: it cannot be used, or a package is missing.
    """
    need("PIL", "reading images", "Pillow")
    need("matplotlib", "the picture of the curves")
    need("tqdm", "the progress")
    kind = (VIDEO_SUFFIXES if settings.videos else SUFFIXES, settings.what)
    train = find_files_below(settings.videos or settings.images, *kind)
    return train, find_files_below(settings.val, *kind) if settings.val else []


def pretrain(settings: PretrainSettings, callbacks: Sequence[object] = ()) -> int:
    """Pretrain; see `run_task`."""
    return run_task(settings, read_inputs, _parts, callbacks)


def _parts(settings: PretrainSettings, inputs: tuple[list[str], list[str]], resumed: bool, stop: Stop) -> Parts:
    files, held_out = inputs
    size, folder, what = settings.size or "base", settings.videos or settings.images, settings.what
    recipe = settings.recipe(size, PRETRAINING)
    if settings.videos:
        logger.info("the recipe is that for images; for clips, only the mask ratio and the stride are the paper's")
    fields = settings.model_fields(size)
    model = HieraMAE(**fields, drop_path_rate=recipe.drop_path_rate, use_checkpoint=settings.use_checkpoint)
    return Parts(
        task="pretrain",
        model=model,
        fields=fields,
        recipe=recipe,
        samples=samples_of(files, _reader(settings)),
        loss=_loss(settings.ratio),
        evaluate=_evaluation(settings, files, held_out, model, settings.epochs or recipe.epochs, stop),
        told={
            "data": f"train {len(files)} {what}, {folder}"
            + (f"; val {len(held_out)} {what}, {settings.val}" if held_out else ""),
            "model": f"MAE of Hiera {size}",
            "weights": OF_CHECKPOINT if resumed else RANDOM,
            "images": f"{settings.told_images(settings.clip_frames)}; {settings.ratio:.0%} of each are masked",
            "evaluation": "" if held_out else f"none: {settings.word('val')} DIR names others to measure the loss on",
        },
        unchanged={
            settings.word("mask_ratio"): settings.ratio,
            "the number of files": len(files),
            "the files": list_hash(folder, files),
        },
        following="hiera-det train-classifier --train DIR --val DIR --output DIR --weights {weights}",
    )


def _reader(settings: PretrainSettings, crop: Callable[[int], Reader] = cropped_reader) -> Reader:
    """What reads a clip, or an image that is cut by ``crop``."""
    reader: Reader
    if settings.videos:
        reader = clip_reader(settings.image_size, settings.clip_frames, settings.stride)
    else:
        reader = crop(settings.image_size)
    return reader.with_limits(settings.max_pixels, settings.bad_images())


def held_out_loss(model: HieraMAE, loader: Iterable[Any], mask_ratio: float, device: torch.device, stop: Stop) -> float:
    """The mean loss over the images of all processes, in float32; the model is in evaluation mode afterwards.

    Args:
        model: whose loss.
        loader: this process's images, of `hiera_det.tasks.batches.eval_loader`.
        mask_ratio: part that is left out; which one follows from an image's place alone.
        device: of the model.
        stop: what ends it early.

    Raises:
        InputError: an image cannot be read, or none can where they are left out.
        StopRequested: a signal came, to whichever process.
    """
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64)
    with generators_kept(), torch.inference_mode():
        for number, batch in enumerate(stop.cut(loader)):
            if batch is not None:
                seed_all(derive(number, process_rank()))
                images = unwrap(batch).inputs.to(device)
                totals += torch.tensor([len(images) * float(model(images, mask_ratio=mask_ratio)[0]), len(images)])
    stop.settle(device)
    loss, count = sum_over_processes(totals.to(device)).tolist()
    if not count:
        raise InputError("none of the images to measure the loss on can be read")
    return float(loss / count)


def _loss(mask_ratio: float) -> Callable[[nn.Module, Batch], Tensor]:
    """Images to the loss of the pixels that were left out."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        output: Tensor = model(batch.inputs, mask_ratio=mask_ratio)[0]
        return output

    return loss


def _evaluation(
    settings: PretrainSettings,
    files: Sequence[str],
    held_out: Sequence[str],
    model: HieraMAE,
    epochs: int,
    stop: Stop,
) -> Callable[[int], dict[str, float]]:
    """What draws a few images, and measures the loss on those that are held out."""
    draw, measure = _drawing(settings, files, model, epochs), _measuring(settings, held_out, model, stop)

    def evaluate(epoch: int) -> dict[str, float]:
        draw(epoch)
        return measure() if epoch % settings.eval_epochs == 0 or epoch == epochs else {}

    return evaluate


def _measuring(
    settings: PretrainSettings, held_out: Sequence[str], model: HieraMAE, stop: Stop
) -> Callable[[], dict[str, float]]:
    """What measures the loss of a training on images that it does not see; each is masked the same way every time."""
    if not held_out:
        return lambda: {}
    device = process_device(settings.device)
    samples = samples_of(held_out, _reader(settings, eval_reader), replace=False)
    loader = eval_loader(samples, settings.eval_batch_size, settings.reading(), device.type == "cuda")

    def measure() -> dict[str, float]:
        loss = held_out_loss(model, loader, settings.ratio, device, stop)
        logger.info("val_loss %.4f", loss)
        return {"val_loss": loss}

    return measure


def _drawing(settings: PretrainSettings, files: Sequence[str], model: HieraMAE, epochs: int) -> Callable[[int], None]:
    """What draws the same few images or clips every some epochs, in the main process."""
    if not settings.pictures or not is_main_process():
        return lambda epoch: None
    from hiera_det.tasks.pretrain.pictures import draw_reconstructions

    # Evenly over the sorted files, so that several folders are seen, and the same at each epoch and after a resume.
    chosen = [files[place * len(files) // settings.pictures] for place in range(min(settings.pictures, len(files)))]
    samples = samples_of(chosen, _reader(settings, eval_reader))
    batch = unwrap(collate([samples[index, 0] for index in range(len(chosen))]))
    inputs = batch.inputs.to(process_device(settings.device))

    def draw(epoch: int) -> None:
        if epoch % settings.picture_epochs == 0 or epoch == epochs:
            path = os.path.join(settings.output, PICTURE)
            try:
                draw_reconstructions(model, inputs, settings.ratio, path)
                logger.info("reconstructions: %s", path)
            except WriteError as error:  # a picture is no reason for a training to end
                logger.warning("%s", error)

    return draw
