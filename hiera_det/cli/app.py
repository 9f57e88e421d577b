"""Open a page on this machine that an image can be dropped on: what a run's detector finds, drawn and listed.

The page is served to this machine alone, at 127.0.0.1, and asks the network for nothing. Ctrl-C stops it; what was
dropped on it is deleted then. It needs gradio: pip install 'hiera_det[app]'.

Example:
    hiera-det app --run output/mine --port 8000
"""

from __future__ import annotations

import argparse
import logging

from hiera_det.cli.command import command_parser
from hiera_det.cli.flags import add_device_flag

__all__ = ["main"]


def main() -> None:
    """Serve until Ctrl-C."""
    args = argument_parser().parse_args()
    print("hiera-det app: starting", flush=True)
    from hiera_det.api.app import serve_app

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        serve_app(args.run, args.port, args.device)
    except KeyboardInterrupt:  # which is how one leaves
        print("stopped")


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("app", __doc__)
    parser.add_argument("--run", metavar="DIR", required=True, help="OUTPUT_DIR of a detector's training")
    parser.add_argument("--port", type=int, default=7860, help="of this machine (default: 7860)")
    add_device_flag(parser)
    return parser
