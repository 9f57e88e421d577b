"""Classify images or videos with a trained classifier, or measure its accuracy on a folder of class folders.

INPUT is a file or a folder, with all below it. Videos go to weights that take clips: 5 clips of 3 crops are averaged,
as in the paper. Names of classes come from the weights' file, where a training of ours has put them, or from --classes.

Examples:
    hiera-det classify photos --weights output/flowers/model_final.pth
    hiera-det classify dog.jpg --weights timm://hiera_base_224.mae_in1k_ft_in1k --classes imagenet.txt
    hiera-det classify clip.mp4 --weights hiera_base_16x224.pth --json found.json
    hiera-det classify --evaluate imagenet/val --weights hiera_base_224.pth
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from hiera_det.cli.command import command_parser
from hiera_det.cli.flags import add_device_flag, add_image_flags
from hiera_det.errors import InputError, printable
from hiera_det.extras import need
from hiera_det.files import make_folder, refuse_input, write_atomically

if TYPE_CHECKING:
    from hiera_det.tasks.classify.predict import Classifier


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("classify", __doc__, allow_abbrev=False)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="images, videos, folders of them")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a file, URL, hf:// or timm://")
    parser.add_argument("--evaluate", metavar="DIR", help="DIR/<class>/*.jpg: print top-1 and top-5 accuracy")
    parser.add_argument("--topk", type=int, default=5, help="guesses per file (default: %(default)s)")
    parser.add_argument("--classes", metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--json", metavar="FILE", help="write the guesses, or the accuracy, there too")
    parser.add_argument(
        "--image-size", type=int, default=0, metavar="PIXELS", help="default: what the model learned at"
    )
    parser.add_argument("--stride", type=float, default=4, help="of clips: frames of 30 a second (default: 4)")
    parser.add_argument(
        "--views", type=int, nargs=2, default=(3, 5), metavar=("CROPS", "CLIPS"), help="of a video (default: 3 5)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time with --evaluate (default: 64)")
    parser.add_argument(
        "--workers", type=int, help="processes that read images with --evaluate (default: 4, or the cores there are)"
    )
    add_image_flags(parser, "skip", "costs a line and exit status 1 at the end")
    add_device_flag(parser)
    return parser


def main() -> None:
    """Classify or evaluate, and print."""
    args = argument_parser().parse_args()
    if bool(args.inputs) == bool(args.evaluate):
        raise InputError("give images or videos to classify, or --evaluate DIR alone")
    if args.batch_size < 1:
        raise InputError("--batch-size must be at least 1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hiera_det.images").setLevel(logging.INFO)
    for package, pip in (("PIL", "Pillow"), ("torchvision", "torchvision"), ("tqdm", "tqdm")):
        need(package, "hiera-det classify", pip)
    from hiera_det.cli.processes import chosen_device
    from hiera_det.data.bad_images import BadImages
    from hiera_det.tasks.classify.predict import Classifier, read_class_names

    device = chosen_device(args.device)
    if args.json:
        make_folder(os.path.dirname(args.json) or ".", "--json")
    names = read_class_names(args.classes) if args.classes else ()
    bad_images = BadImages(args.on_bad_image, "--on-bad-image")
    classifier = Classifier(
        *(args.weights, device, args.image_size, names, args.stride, tuple(args.views), args.max_pixels, bad_images)
    )
    if args.evaluate:
        accuracy = classifier.evaluate(args.evaluate, args.batch_size, args.workers)
        print(accuracy)
        scores = {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss, "images": accuracy.images}
        write_json(args.json, scores)
        if bad_images.count:
            sys.exit(f"error: {bad_images.count} images could not be read and are left out")
        return
    results: list[dict[str, Any]] = []
    try:
        failed = classify(classifier, args, results)
    finally:  # what was found before counts
        if results:
            write_json(args.json, results)
    if failed:
        sys.exit(f"error: {failed} of {len(results)} files could not be read")


def classify(classifier: Classifier, args: argparse.Namespace, results: list[dict[str, Any]]) -> int:
    """Print the guesses for all files and add them to ``results``; returns how many files could not be read.

    Raises:
        InputError: not one could.
    """
    files = classifier.find(args.inputs)
    if args.json:
        refuse_input(args.json, "--json", (*files, args.weights))
    failed: dict[str, str] = {}

    def leave_out(file: str, reason: str) -> None:
        failed[file] = reason
        if len(failed) < len(files):
            print(f"warning: {printable(file)}: {reason}, left out", file=sys.stderr)
            results.append({"file": file, "error": reason})

    for found in classifier.classify(files, args.topk, leave_out if args.on_bad_image == "skip" else None):
        print(printable(found.file))
        for name, probability in zip(found.names, found.probabilities, strict=True):
            print(f"  {100 * probability:5.1f}%  {printable(name)}")
        results.append(found.as_dict())
    if len(failed) == len(files):
        file, reason = failed.popitem()
        raise InputError(f"{file}: {reason}")
    return len(failed)


def write_json(path: str | None, content: object) -> None:
    """Write the results, where a file for them is named."""
    if path:
        write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode()))
        print(path)
