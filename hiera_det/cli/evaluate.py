r"""Measure a trained model, or score a results file, ours or another tool's, against a COCO JSON.

--run takes the best weights of a training where they are kept, else its last, and what it was evaluated on unless
--val-json and --val-images name something else. Results are COCO's: a list of objects with image_id, category_id, bbox
[x, y, width, height], score and, for masks, segmentation. Entries of `hiera-det predict` go by their file and class
names.

Examples:
    hiera-det evaluate --run output/mine
    hiera-det evaluate --run output/mine --val-json test.json --val-images images/test
    hiera-det evaluate --results found.json --val-json val.json
    hiera-det evaluate --results coco_instances_results.json --val-json val.json --coco-eval faster-coco-eval \
        --json scores.json
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from pathlib import Path

from hiera_det.api.needs import need_detectron2
from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError
from hiera_det.files import make_folder, refuse_input, write_atomically


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("evaluate", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="DIR", help="the output folder of a training")
    what.add_argument("--results", metavar="FILE", help="the results, a JSON")
    parser.add_argument("--val-json", metavar="FILE", help="COCO JSON of the images and annotations")
    parser.add_argument("--val-images", metavar="DIR", help="with --run: the folder of its images")
    parser.add_argument("--coco-eval", default="pycocotools", metavar="NAME", help="or faster-coco-eval, sooner")
    parser.add_argument(
        "--max-detections",
        type=int,
        default=100,
        metavar="N",
        help="objects of a class that count in an image, the best first, at least 100 (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the metrics there too")
    return parser


def main() -> None:
    """Measure or score, and print."""
    args = argument_parser().parse_args()
    if args.results and (not args.val_json or args.val_images):
        raise InputError("--results: give --val-json FILE, the annotations that they are scored against, and no images")
    if args.run and bool(args.val_json) != bool(args.val_images):
        raise InputError("--run: give --val-json and --val-images, or none of them for what it was evaluated on")
    if args.max_detections < 1:
        raise InputError(f"--max-detections {args.max_detections}: give a number of objects, 100 or more")
    if args.json:
        make_folder(os.path.dirname(args.json) or ".", "--json")
        refuse_input(args.json, "--json", filter(None, (args.results, args.val_json)))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("hiera_det", "detectron2"):
        logging.getLogger(name).setLevel(logging.INFO)
    scores = measure_run(args) if args.run else score_file(args)
    for task, values in scores.items():
        print(f"{task}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items() if "-" not in name))
    if args.json:
        plain = {t: {n: v if math.isfinite(v) else None for n, v in values.items()} for t, values in scores.items()}
        write_atomically(Path(args.json), lambda file: file.write(json.dumps(plain, indent=1).encode()))
        print(args.json)


def score_file(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Metrics of a results file, by task."""
    need_detectron2()
    from hiera_det.d2.predict.scoring import score_results

    return score_results(args.results, args.val_json, args.coco_eval, args.max_detections)


def measure_run(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Metrics of a run's weights, by task; those of a classifier under their one name."""
    from hiera_det.api.evaluation import evaluate
    from hiera_det.api.run import Run

    run = Run(args.run)
    keys = {"TEST.COCO_EVAL": args.coco_eval} if run.task == "detect" else {}
    val = (args.val_json, args.val_images) if args.val_json else None
    scores: dict[str, dict[str, float]] = {}
    for name, value in evaluate(run, val, opts=keys).items():
        task, _, metric = name.rpartition("/")
        scores.setdefault(task or run.task, {})[metric] = value
    print(f"weights: {run.weights.path}")
    return scores
