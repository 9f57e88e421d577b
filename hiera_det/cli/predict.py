r"""Predict on images with a trained detector: pictures with masks, boxes, class names and scores, and a JSON of them.

--input takes images, videos, folders and patterns (in quotes; ** is any depth of folders). Of a folder its own images
are taken, with --recursive those at any depth; a line says what else is there. A file that cannot be read costs one
line, and exit status 1 at the end. No image is ever overwritten.

--json FILE.json gets COCO's results, and FILE.images.json beside it the images' ids, sizes and numbers of objects, or
why one could not be read.

Examples:
    hiera-det predict --run output/mine --input photos --output predicted
    hiera-det predict --run output/mine --input 'photos/**/*.jpg' --json found.json --confidence-threshold 0.3
    hiera-det predict --config-file configs/mask_rcnn_hiera_b.yaml --input a.jpg b.jpg --output predicted \
        --opts MODEL.WEIGHTS model_final.pth TEST.IMS_PER_BATCH 8 TEST.AUTOCAST bfloat16
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from hiera_det.api.needs import need_detectron2
from hiera_det.cli.command import command_parser
from hiera_det.cli.flags import add_image_flags
from hiera_det.errors import InputError
from hiera_det.extras import need

if TYPE_CHECKING:
    from hiera_det.d2.predict.predictor import Predictor


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("predict", __doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", metavar="DIR", help="OUTPUT_DIR of a training: its config, best weights and classes")
    model.add_argument("--config-file", metavar="FILE", help="a config; name the weights by --opts MODEL.WEIGHTS FILE")
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="images, videos, folders, patterns")
    parser.add_argument("--recursive", action="store_true", help="take the images of an input's sub-folders too")
    parser.add_argument("--output", metavar="DIR", help="folder for the pictures")
    parser.add_argument("--json", metavar="FILE", help="file for all objects: COCO's results; image_id counts from 1")
    parser.add_argument(
        "--images-json", metavar="FILE", help="COCO JSON of the images: take its image and category ids"
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="SCORE",
        help="least score (default: that of the best F1 at the weights' evaluation in the run, else 0.5)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of a video, take each N-th frame (default: 1)"
    )
    add_image_flags(parser, "skip", "costs a line and exit status 1 at the end")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures and JSON of an earlier run")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys, last")
    return parser


def choose_threshold(args: argparse.Namespace) -> float:
    """The least score, said where nobody has given it."""
    from hiera_det.report.threshold import USUAL, read_threshold

    if args.confidence_threshold is not None:
        return float(args.confidence_threshold)
    if not args.run:
        return USUAL
    from hiera_det.d2.predict.predictor import weights_in

    threshold = read_threshold(args.run, "" if "MODEL.WEIGHTS" in args.opts else weights_in(args.run))
    logging.getLogger("hiera_det.predict").info("least score %.3g: %s", threshold.score, threshold.reason)
    return threshold.score


def build_predictor(args: argparse.Namespace, threshold: float) -> Predictor:
    """The detector that the flags name."""
    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.predict.predictor import Predictor

    limit = ["INPUT.MAX_PIXELS", str(args.max_pixels)] if "INPUT.MAX_PIXELS" not in args.opts else []
    opts = [*limit, *args.opts]
    if args.run:
        return Predictor.from_folder(args.run, opts, threshold)
    return Predictor(load_config(args.config_file, opts), threshold=threshold)


def refuse_torchvision(run: str) -> None:
    """Refuse a training of a torchvision detector, and say how it predicts."""
    from hiera_det.api.run import NOT_DETECTRON2
    from hiera_det.engine.record import read_record

    if (record := read_record(run)) and record.task == "torchvision":
        raise InputError(f"--run {run}: {NOT_DETECTRON2}")


def main() -> None:
    """Predict, write, and print where."""
    args = argument_parser().parse_args()
    if not (args.output or args.json):
        raise InputError("nowhere to write to: give --output DIR for pictures, --json FILE, or both")
    if args.run:
        refuse_torchvision(args.run)
    need("tqdm", "the progress")
    need_detectron2()
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from hiera_det.d2.predict.job import JobSettings, PredictionJob
    from hiera_det.data.image_folder import SUFFIXES, find_images
    from hiera_det.data.video import VIDEO_SUFFIXES

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hiera_det").setLevel(logging.INFO)
    files = find_images(args.input, (*SUFFIXES, *VIDEO_SUFFIXES), recursive=args.recursive)
    skip = args.on_bad_image == "skip"
    places = args.output or "", args.json or "", args.images_json or ""
    job = PredictionJob(files, JobSettings(*places, args.overwrite, args.every, skip))
    threshold = choose_threshold(args)
    predictor = build_predictor(args, threshold)
    with logging_redirect_tqdm(), tqdm(total=len(files), unit="file") as progress:
        job.run(predictor, progress.update)
    found = f"{job.objects} objects with a score of at least {threshold:.3g}"
    print(f"{len(files) - len(job.failed)} images, {found}")
    print(*(path for path in (args.output, args.json) if path), sep="\n")
    if job.failed:
        sys.exit(f"error: {len(job.failed)} of {len(files)} files could not be read or drawn")
