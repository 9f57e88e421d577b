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

from hiera_det.cli.command import command_parser
from hiera_det.cli.flags import add_device_flag
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.files import make_folder, write_atomically


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
        "--workers", type=int, default=4, help="processes that read images with --evaluate (default: 4)"
    )
    add_device_flag(parser)
    return parser


def main() -> None:
    """Classify or evaluate, and print."""
    args = argument_parser().parse_args()
    if bool(args.inputs) == bool(args.evaluate):
        raise InputError("give images or videos to classify, or --evaluate DIR alone")
    if args.batch_size < 1 or args.workers < 0:
        raise InputError("--batch-size must be at least 1, --workers at least 0")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package, pip in (("PIL", "Pillow"), ("torchvision", "torchvision"), ("tqdm", "tqdm")):
        need(package, "hiera-det classify", pip)
    from hiera_det.cli.processes import chosen_device
    from hiera_det.tasks.classify.predict import Classifier, read_class_names

    device = chosen_device(args.device)
    if args.json:
        make_folder(os.path.dirname(args.json) or ".", "--json")
    names = read_class_names(args.classes) if args.classes else ()
    classifier = Classifier(args.weights, device, args.image_size, names, args.stride, tuple(args.views))
    results: object
    if args.evaluate:
        accuracy = classifier.evaluate(args.evaluate, args.batch_size, args.workers)
        print(accuracy)
        results = {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss, "images": accuracy.images}
    else:
        found_all = []
        for found in classifier.classify(classifier.find(args.inputs), args.topk):
            print(found.file)
            for name, probability in zip(found.names, found.probabilities, strict=True):
                print(f"  {100 * probability:5.1f}%  {name}")
            found_all.append(found.as_dict())
        results = found_all
    if args.json:
        text = json.dumps(results, indent=1)
        write_atomically(args.json, lambda file: file.write(text.encode()))
        print(args.json)
