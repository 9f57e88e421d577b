r"""Predict on images with a trained detector: pictures with masks, boxes, class names and scores, and a JSON of them.

--input takes files, folders and patterns (in quotes; ** is any depth of folders). An image that cannot be read costs
one line, and exit status 1 at the end. No image is ever overwritten.

Examples:
    hiera-det predict --run output/mine --input photos --output predicted
    hiera-det predict --run output/mine --input 'photos/**/*.jpg' --json found.json --confidence-threshold 0.3
    hiera-det predict --config-file configs/mask_rcnn_hiera_b.yaml --input a.jpg b.jpg --output predicted \
        --opts MODEL.WEIGHTS model_final.pth TEST.IMS_PER_BATCH 8 TEST.AUTOCAST bfloat16
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_det.cli.command import command_parser, need_detectron2
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.files import make_folder, write_atomically

if TYPE_CHECKING:
    from hiera_det.d2.predict.predictor import Prediction, Predictor


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("predict", __doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", metavar="DIR", help="OUTPUT_DIR of a training: its config, last weights and classes")
    model.add_argument("--config-file", metavar="FILE", help="a config; name the weights by --opts MODEL.WEIGHTS FILE")
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="images, folders, patterns")
    parser.add_argument("--output", metavar="DIR", help="folder for the pictures")
    parser.add_argument("--json", metavar="FILE", help="file for all objects: COCO's results; image_id counts from 1")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, metavar="SCORE", help="least score (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace pictures and JSON of an earlier run")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys, last")
    return parser


def build_predictor(args: argparse.Namespace) -> Predictor:
    """The detector that the flags name."""
    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.predict.predictor import Predictor

    if args.run:
        return Predictor.from_folder(args.run, args.opts, args.confidence_threshold)
    return Predictor(load_config(args.config_file, args.opts), threshold=args.confidence_threshold)


def check_json(path: str, files: list[str], overwrite: bool) -> None:
    """Refuse a file for the results that is an image, a folder, or there already."""
    if os.path.realpath(path) in {os.path.realpath(file) for file in files} or os.path.isdir(path):
        raise InputError(f"--json {path}: is an image or a folder; name another file")
    if os.path.exists(path) and not overwrite:
        raise InputError(f"--json {path}: is there already; name another file, or use --overwrite")
    make_folder(os.path.dirname(path) or ".")


def write(path: str, content: Any) -> None:
    """Write a file in one step."""
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


class Outputs:
    """What is left of the predictions: pictures as they come, objects for the JSON at the end."""

    def __init__(self, args: argparse.Namespace, files: list[str]) -> None:
        from hiera_det.data.image_folder import output_paths

        self.pictures = {}
        if args.output:
            self.pictures = dict(zip(files, output_paths(files, args.output, overwrite=args.overwrite), strict=True))
        if args.json:
            check_json(args.json, files, args.overwrite)
        self.json = args.json
        self.image_ids = {file: number for number, file in enumerate(files, start=1)}
        self.objects = 0
        self.results: list[dict[str, Any]] = []

    def add(self, predictor: Predictor, prediction: Prediction) -> None:
        """Take one image's objects."""
        self.objects += len(prediction.instances)
        if prediction.file in self.pictures:
            picture = predictor.draw(prediction)
            write(self.pictures[prediction.file], partial(picture.save, format="JPEG", quality=90))
        if self.json:
            self.results += predictor.coco_results(prediction, self.image_ids[prediction.file])

    def finish(self) -> None:
        """Write the JSON, in the order of the inputs."""
        if self.json:
            text = json.dumps(sorted(self.results, key=lambda result: result["image_id"]))
            write(self.json, lambda file: file.write(text.encode()))


def main() -> None:
    """Predict, write, and print where."""
    args = argument_parser().parse_args()
    if not (args.output or args.json):
        raise InputError("nowhere to write to: give --output DIR for pictures, --json FILE, or both")
    need("tqdm", "the progress")
    need_detectron2()
    from tqdm import tqdm

    from hiera_det.data.image_folder import find_images

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hiera_det").setLevel(logging.INFO)
    files = find_images(args.input)
    outputs = Outputs(args, files)
    predictor = build_predictor(args)
    failed = []

    def leave_out(file: str, reason: str) -> None:
        failed.append(file)
        progress.write(f"warning: {file}: cannot be read as an image ({reason}), left out", file=sys.stderr)
        progress.update()

    with tqdm(total=len(files), unit="image") as progress:
        for prediction in predictor.predict_files(files, leave_out):
            outputs.add(predictor, prediction)
            progress.update()
    outputs.finish()
    found = f"{outputs.objects} objects with a score of at least {args.confidence_threshold:g}"
    print(f"{len(files) - len(failed)} images, {found}")
    print(*(path for path in (args.output, args.json) if path), sep="\n")
    if failed:
        sys.exit(f"error: {len(failed)} of {len(files)} images could not be read")
