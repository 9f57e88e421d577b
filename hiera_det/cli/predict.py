r"""Predict on images with a trained detector: pictures with masks, boxes, class names and scores, and tables of them.

--input takes images, videos, folders, patterns (in quotes; ** is any depth of folders) and cameras, as webcam:0, until
Ctrl-C. Of a folder its own images are taken, with --recursive those at any depth; a line says what else is there. A
file that cannot be read costs one line, and exit status 1 at the end. No image is ever overwritten.

--json FILE.json gets COCO's results, and FILE.images.json beside it the images' ids, sizes and numbers of objects, or
why one could not be read.

Examples:
    hiera-det predict --run output/mine --input photos --output predicted
    hiera-det predict --run output/mine --input 'photos/**/*.jpg' --json found.json --confidence-threshold 0.3
    hiera-det predict --run output/mine --input film.mp4 --output predicted --save-video --csv found.csv
    hiera-det predict --run output/mine --input photos --crops cut_out --class-threshold cat 0.7
    hiera-det predict --config-file configs/mask_rcnn_hiera_b.yaml --input a.jpg b.jpg --output predicted \
        --opts MODEL.WEIGHTS model_final.pth TEST.IMS_PER_BATCH 8 TEST.AUTOCAST bfloat16
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from typing import TYPE_CHECKING

from hiera_det.api.needs import need_detectron2
from hiera_det.cli.command import command_parser
from hiera_det.cli.flags import add_image_flags
from hiera_det.errors import InputError
from hiera_det.extras import need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hiera_det.predict.job import PredictionJob
    from hiera_det.predict.predictor import FilePredictor

#: Flags that name what is written.
PLACES = ("output", "json", "csv", "crops", "save_masks")


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("predict", __doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", metavar="DIR", help="OUTPUT_DIR of a training: its config, best weights and classes")
    model.add_argument("--config-file", metavar="FILE", help="a config; name the weights by --opts MODEL.WEIGHTS FILE")
    what = "images, videos, folders, patterns, webcam:0"
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help=what)
    parser.add_argument("--recursive", action="store_true", help="take the images of an input's sub-folders too")
    _add_places(parser)
    _add_thresholds(parser)
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of a video, take each N-th frame (default: 1)"
    )
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="of a video or camera, take N at most")
    add_image_flags(parser, "skip", "costs a line and exit status 1 at the end")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run has written")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys, last")
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is written; at least one of these")
    group.add_argument("--output", metavar="DIR", help="folder for the pictures")
    group.add_argument(
        "--save-video", action="store_true", help="of a video, write a video there, not a picture of each frame"
    )
    group.add_argument("--json", metavar="FILE", help="file for all objects: COCO's results; image_id counts from 1")
    images = "COCO JSON of the images: take its image and category ids"
    group.add_argument("--images-json", metavar="FILE", help=images)
    group.add_argument("--csv", metavar="FILE", help="file for all objects: a table, a row for each")
    group.add_argument("--crops", metavar="DIR", help="folder for the objects, cut out: in it a folder for each class")
    group.add_argument("--save-masks", metavar="DIR", help="folder for their masks, white on black, likewise")


def _add_thresholds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which objects")
    group.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="SCORE",
        help="least score (default: that of the best F1 at the weights' evaluation in the run, else 0.5)",
    )
    group.add_argument(
        "--class-threshold",
        nargs=2,
        action="append",
        default=[],
        metavar=("CLASS", "SCORE"),
        help="another least score for one class; again for more",
    )
    by_class = "of several: a JSON {\"cat\": 0.4}, or a run's threshold.json, which has the best F1's of each class"
    group.add_argument("--thresholds-json", metavar="FILE", help=by_class)


def choose_threshold(args: argparse.Namespace) -> float:
    """The least score, said where nobody has given it."""
    from hiera_det.report.threshold import USUAL, read_threshold

    if args.confidence_threshold is not None:
        return float(args.confidence_threshold)
    if not args.run:
        return USUAL
    from hiera_det.engine.checkpoint import weights_in

    threshold = read_threshold(args.run, "" if "MODEL.WEIGHTS" in args.opts else weights_in(args.run))
    logging.getLogger("hiera_det.predict").info("least score %.3g: %s", threshold.score, threshold.reason)
    return threshold.score


def class_thresholds(args: argparse.Namespace) -> dict[str, float]:
    """Least scores by class: the JSON's, and over them the flags'."""
    from hiera_det.predict.thresholds import read_thresholds

    found = read_thresholds(args.thresholds_json) if args.thresholds_json else {}
    for name, text in args.class_threshold:
        try:
            found[name] = float(text)
        except ValueError:
            raise InputError(f"--class-threshold {name} {text}: give a class and a score, cat 0.4") from None
    return found


def build_predictor(
    args: argparse.Namespace, is_torchvision: bool, threshold: float, by_class: Mapping[str, float]
) -> FilePredictor:
    """The detector that the flags name."""
    if is_torchvision:
        from hiera_det.adapters.torchvision.predict import TorchvisionPredictor

        return TorchvisionPredictor.from_folder(args.run, threshold, by_class, max_pixels=args.max_pixels)
    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.predict.predictor import Predictor

    limit = ["INPUT.MAX_PIXELS", str(args.max_pixels)] if "INPUT.MAX_PIXELS" not in args.opts else []
    opts = [*limit, *args.opts]
    if args.run:
        return Predictor.from_folder(args.run, opts, threshold, by_class)
    return Predictor(load_config(args.config_file, opts), threshold=threshold, class_thresholds=by_class)


def torchvision_run(args: argparse.Namespace) -> bool:
    """Whether the run is of torchvision's; refuses those of no detector, and detectron2's keys for torchvision's."""
    from hiera_det.engine.record import read_record

    record = read_record(args.run) if args.run else None
    if record and record.task == "torchvision" and args.opts:
        raise InputError(f"--opts {args.opts[0]}: is for detectron2's detectors; {args.run} has one of torchvision's")
    return record is not None and record.task == "torchvision"


def build_job(args: argparse.Namespace) -> PredictionJob:
    """The files, and what is written of them."""
    from hiera_det.data.camera import camera_number
    from hiera_det.data.image_folder import SUFFIXES, find_images
    from hiera_det.data.video import VIDEO_SUFFIXES
    from hiera_det.predict.job import JobSettings, PredictionJob

    cameras = [name for name in args.input if camera_number(name) is not None]
    named = [name for name in args.input if name not in cameras]
    files = [*find_images(named, (*SUFFIXES, *VIDEO_SUFFIXES), recursive=args.recursive), *cameras]
    settings = JobSettings(
        pictures=args.output or "",
        results=args.json or "",
        table=args.csv or "",
        crops=args.crops or "",
        masks=args.save_masks or "",
        images_json=args.images_json or "",
        overwrite=args.overwrite,
        every=args.every,
        frames=args.frames,
        save_video=args.save_video,
        skip=args.on_bad_image == "skip",
    )
    return PredictionJob(files, settings)


def main() -> None:
    """Predict, write, and print where."""
    args = argument_parser().parse_args()
    places = [path for path in (getattr(args, name) for name in PLACES) if path]
    if not places:
        raise InputError("nowhere to write to: give --output DIR for pictures, --json FILE, --csv FILE or another")
    is_torchvision = torchvision_run(args)
    need("tqdm", "the progress")
    if not is_torchvision:
        need_detectron2()
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hiera_det").setLevel(logging.INFO)
    job = build_job(args)
    by_class, threshold = class_thresholds(args), choose_threshold(args)
    predictor = build_predictor(args, is_torchvision, threshold, by_class)
    begun = time.monotonic()
    with logging_redirect_tqdm(), tqdm(total=len(job.files), unit="file") as progress:
        job.run(predictor, progress.update)
    pace = job.images / (time.monotonic() - begun)
    beside = ", other scores for " + ", ".join(by_class) if by_class else ""
    found = f"{job.objects} objects with a score of at least {threshold:.3g}{beside}"
    print(f"{job.images} images, {found}; {pace:.3g} images/s")
    print(*places, sep="\n")
    if job.failed:
        sys.exit(f"error: {len(job.failed)} of {len(job.files)} files could not be read or drawn")
