"""Pretrain a Hiera as a masked autoencoder on a folder of images or videos; no labels needed.

Leaves model_final.pth, in the authors' layout, for hiera_base(weights=...), hiera-det train-classifier --weights and
MODEL.WEIGHTS of a detector; checkpoint.pth, metrics.json, curves.png, and reconstructions.png of a few fixed images:
original, masked, reconstructed, pasted. SIGTERM and Ctrl-C save a checkpoint first.

Examples:
    hiera-det pretrain --images imagenet/train --output output/mae --size base --batch-size 4096 --num-gpus 8
    hiera-det pretrain --images photos --output output/mae --size tiny --epochs 200 --batch-size 64 --resume
    hiera-det pretrain --videos kinetics/train --output output/mae_video --batch-size 512 --num-gpus 8
"""

from __future__ import annotations

import argparse

from hiera_det.cli.flags import (
    add_evaluation_flags,
    add_image_flags,
    add_model_flags,
    add_training_flags,
    training_parser,
)


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = training_parser("pretrain", __doc__)
    parser.add_argument("--images", metavar="DIR", help="images, at any depth below")
    parser.add_argument("--videos", metavar="DIR", help="videos, at any depth below, in place of images")
    parser.add_argument("--val", metavar="DIR", help="others of them, on which the same loss is measured")
    parser.add_argument("--output", metavar="DIR", required=True)
    parser.add_argument("--mask-ratio", type=float, help="part that is left out (default: 0.6, of clips 0.9)")
    parser.add_argument("--frames", type=int, help="of a clip (default: 16)")
    parser.add_argument("--stride", type=float, help="frames of 30 a second from one to the next (default: 4)")
    parser.add_argument("--pictures", type=int, help="images in reconstructions.png (default: 8; 0 for none)")
    parser.add_argument("--picture-epochs", type=int, help="from a picture to the next (default: 10)")
    add_model_flags(parser)
    parser.add_argument("--decoder-embed-dim", type=int, help="channels of the decoder (default: 512)")
    parser.add_argument("--decoder-depth", type=int, help="its blocks (default: 8)")
    parser.add_argument("--decoder-num-heads", type=int, help="its attention heads (default: 16)")
    add_training_flags(parser)
    add_evaluation_flags(parser, "val_loss, with --val")
    add_image_flags(parser, "fail", "another, which the seed decides, takes its place")
    return parser


def main() -> None:
    """Check, start the processes, train."""
    args = argument_parser().parse_args()
    from hiera_det.cli.processes import machines, settings_from
    from hiera_det.tasks.pretrain.train import pretrain, read_inputs
    from hiera_det.tasks.processes import train_everywhere
    from hiera_det.tasks.settings import PretrainSettings

    train_everywhere(pretrain, read_inputs, settings_from(PretrainSettings, args), **machines(args))
