"""``hiera-det COMMAND``, also ``python -m hiera_det COMMAND``: a word per job, whose module is imported on demand."""

from __future__ import annotations

import difflib
import importlib
import sys
import textwrap

import hiera_det
from hiera_det.errors import InputError, run_tool

__all__ = ["COMMANDS", "main"]

#: Commands by their words: the module of `hiera_det.cli`, and what it does.
COMMANDS = {
    "check": ("check", "check a COCO JSON and its images, and mend what can be mended"),
    "convert-dataset": ("convert_dataset", "make a COCO JSON of a YOLO, VOC or labelme data set"),
    "train": ("train_detector", "train a detector that a YAML config describes"),
    "train-lazy": ("train_lazy", "the same for a LazyConfig, a Python file"),
    "predict": ("predict", "find objects in images: pictures and a JSON"),
    "app": ("app", "open a page on this machine that an image can be dropped on"),
    "report": ("report", "write a run's report.html"),
    "evaluate": ("evaluate", "score a results file, ours or another tool's"),
    "train-classifier": ("train_classifier", "train a classifier on a folder per class"),
    "classify": ("classify", "classify images or videos, or measure a classifier"),
    "pretrain": ("pretrain_mae", "pretrain as a masked autoencoder, without labels"),
    "export": ("export", "write a model as ONNX, torch.export or TorchScript"),
    "convert-weights": ("convert_weights", "rewrite a weight file in another package's layout, or say what it is"),
    "compare": ("compare", "train trunks or settings for equal seconds, and compare them"),
    "benchmark": ("benchmark", "time trunks and detectors beside their peers"),
    "draw-augmented": ("draw_augmented", "draw training images as the model will see them"),
    "draw-positions": ("draw_positions", "draw a position embedding at two sizes"),
    "print-schedules": ("print_schedules", "print what each config's training is"),
    "doctor": ("doctor", "say what is installed, what is missing and how to get it"),
    "install-detectron2": ("install_detectron2", "install detectron2, which is on no package index"),
    "make-shapes": ("make_shapes", "make the built-in data set of shapes"),
}


def main() -> None:
    """Run the command that the first word names, and exit as `run_tool` does."""
    run_tool(_run)


def _run() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("-h", "--help"):
        print(_help())
    elif word == "--version":
        print(f"hiera_det {hiera_det.__version__}")
    elif word in COMMANDS:
        sys.argv[:2] = [f"hiera-det {word}"]  # what is left is the command's own
        importlib.import_module(f"hiera_det.cli.{COMMANDS[word][0]}").main()
    else:
        close = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "hiera-det --help lists them"
        raise InputError(f"{word}: no such command; {hint}")


def _help() -> str:
    lines = "\n".join(f"  {word:20}{what}" for word, (_, what) in COMMANDS.items())
    return (
        textwrap.dedent("""\
        usage: hiera-det COMMAND ...

        Hiera for detection, segmentation and classification. hiera-det COMMAND --help tells a command's flags.

        commands:
        """)
        + lines
    )
