r"""Score a results file, ours or another tool's, against a COCO JSON.

The results are COCO's: a list of objects with image_id, category_id, bbox [x, y, width, height], score and, for masks,
segmentation. Entries of `hiera-det predict` go by their file and class names. To evaluate a model, use
`hiera-det train --eval-only`.

Examples:
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
from hiera_det.files import make_folder, write_atomically


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("--results", required=True, metavar="FILE", help="the results, a JSON")
    parser.add_argument("--val-json", required=True, metavar="FILE", help="COCO JSON of the images and annotations")
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
    """Score, and print."""
    args = argument_parser().parse_args()
    if args.max_detections < 1:
        raise InputError(f"--max-detections {args.max_detections}: give a number of objects, 100 or more")
    if args.json:
        make_folder(os.path.dirname(args.json) or ".", "--json")
    need_detectron2()
    from hiera_det.d2.predict.scoring import score_results

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("hiera_det", "detectron2"):
        logging.getLogger(name).setLevel(logging.INFO)
    scores = score_results(args.results, args.val_json, args.coco_eval, args.max_detections)
    for task, values in scores.items():
        print(f"{task}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items() if "-" not in name))
    if args.json:
        plain = {t: {n: v if math.isfinite(v) else None for n, v in values.items()} for t, values in scores.items()}
        write_atomically(Path(args.json), lambda file: file.write(json.dumps(plain, indent=1).encode()))
        print(args.json)
