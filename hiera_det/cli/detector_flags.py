"""The flags of the training tools: detectron2's, own data's paths, and resuming by itself."""

from __future__ import annotations

import argparse
from dataclasses import fields

from detectron2.engine import default_argument_parser

from hiera_det.d2.config.request import RunRequest

__all__ = ["run_request", "training_parser"]


def training_parser(epilog: str | None, output_dir: str = "OUTPUT_DIR") -> argparse.ArgumentParser:
    """A parser that a tool may add its own flags to.

    Args:
        epilog: the end of ``--help``.
        output_dir: what the configs of the tool call the output folder.
    """
    parser: argparse.ArgumentParser = default_argument_parser(epilog=epilog)
    parser.set_defaults(dist_url="auto")  # detectron2 gives all runs of a user the same port
    data = parser.add_argument_group("your own data, in COCO format")
    data.add_argument("--train-json", metavar="FILE", help="annotations to train on; classes are taken from it")
    data.add_argument("--train-images", metavar="DIR", help="the folder that its file names are relative to")
    data.add_argument("--val-json", metavar="FILE", help="annotations to evaluate on")
    data.add_argument("--val-images", metavar="DIR", help="the folder that its file names are relative to")
    parser.add_argument(
        "--auto-resume",
        action="store_true",
        help=f"resume from {output_dir}'s last checkpoint, or start where there is none: for jobs that are requeued",
    )
    return parser


def run_request(args: argparse.Namespace) -> RunRequest:
    """What `training_parser`'s flags ask for; a tool's own flags stay with it."""
    names = [field.name for field in fields(RunRequest) if hasattr(args, field.name)]
    return RunRequest(**{name: getattr(args, name) for name in names})
