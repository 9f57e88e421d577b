"""Write a trained model as a file that runs outside Python, or at least without this package.

Of a training, all that it made: detector or classifier; of a file of weights, trunk or classifier. After writing, the
file is run and compared with the model. What it takes and gives, and which formats a detector has: docs/export.md.

Examples:
    hiera-det export --run output/mine --output detector.onnx --dynamic
    hiera-det export --run output/mine --output maps.pt2 --format torch --part pyramid --size 800 1344
    hiera-det export --weights output/flowers/model_final.pth --output flowers.onnx --half
    hiera-det export --weights hiera_tiny_224.pth --output trunk.ts --format torchscript
"""

from __future__ import annotations

import argparse
import logging

from hiera_det.cli.command import command_parser


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("export", __doc__, allow_abbrev=False)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", metavar="DIR", help="output folder of a training")
    model.add_argument("--weights", metavar="FILE", help="a trunk's or classifier's: a file, URL, hf:// or timm://")
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--format", choices=("onnx", "torch", "torchscript"), default="onnx", help="default: %(default)s"
    )
    parser.add_argument(
        "--part",
        choices=("detector", "pyramid", "trunk", "classifier"),
        default="",
        help="default: all that the model is",
    )
    parser.add_argument("--dynamic", action="store_true", help="for every size, and every number of images")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(), metavar=("HEIGHT", "WIDTH"), help="in pixels (default: that of tests)"
    )
    parser.add_argument("--half", action="store_true", help="compute in float16; in and out goes float32")
    parser.add_argument(
        "--confidence-threshold", type=float, metavar="SCORE", help="of a detector's objects (default: of the best F1)"
    )
    parser.add_argument("--no-check", action="store_true", help="do not run the file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="a detector's config keys, last")
    return parser


def main() -> None:
    """Export, and say how far off the file is."""
    args = argument_parser().parse_args()
    from hiera_det.api.export import export_model

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    off = export_model(
        args.run or args.weights,
        args.output,
        format=args.format,
        part=args.part,
        dynamic=args.dynamic,
        size=args.size,
        half=args.half,
        threshold=args.confidence_threshold,
        check=not args.no_check,
        opts=args.opts,
    )
    if off is not None:
        print(f"run as a check, it differs by {off:.1e} of the largest value at most")
    print(args.output)
