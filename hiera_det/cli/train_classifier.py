r"""Train a classifier on folders of images or videos, one folder per class, and measure its accuracy after every epoch.

--weights takes a file of MAE pretraining or of another classifier, published or of your own; without it training is
from scratch. Leaves model_final.pth, which knows its classes and its size, for hiera-det classify; checkpoint.pth,
metrics.json and curves.png. SIGTERM and Ctrl-C save a checkpoint first.

Examples:
    hiera-det train-classifier --train imagenet/train --val imagenet/val --output output/base \
        --weights mae_hiera_base_224.pth --batch-size 1024 --num-gpus 8
    hiera-det train-classifier --train kinetics/train --val kinetics/val --output output/video \
        --weights mae_hiera_base_16x224.pth --batch-size 128 --num-gpus 8
    hiera-det train-classifier --train flowers/train --val flowers/val --output output/flowers \
        --weights timm://hiera_tiny_224.mae_in1k_ft_in1k --epochs 20 --batch-size 64
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
    parser = training_parser("train-classifier", __doc__)
    parser.add_argument("--train", metavar="DIR", required=True, help="DIR/<class>/*.jpg, or videos, to train on")
    parser.add_argument("--val", metavar="DIR", required=True, help="the same classes, to evaluate on")
    parser.add_argument("--output", metavar="DIR", required=True)
    parser.add_argument("--weights", metavar="FILE", help="a file, URL, hf:// or timm://")
    parser.add_argument(
        "--keep-head",
        action="store_true",
        help="take over the last layer of a file that does not name its classes, because they are those of --train",
    )
    add_model_flags(parser)
    group = parser.add_argument_group("clips")
    group.add_argument("--frames", type=int, help="of a clip (default: the weights' model's, which may be of images)")
    group.add_argument("--stride", type=float, help="frames of 30 a second from one to the next (default: 4)")
    group.add_argument("--repeats", type=int, help="clips of a video in a step (default: 2)")
    group.add_argument(
        "--views", type=int, nargs=2, metavar=("CROPS", "CLIPS"), help="of a video in evaluation (default: 3 5)"
    )
    group = parser.add_argument_group("regularisation")
    group.add_argument("--layer-decay", type=float, help="factor on the learning rate from a block to the one before")
    group.add_argument("--dropout", type=float, help="before the last layer (default: 0.0)")
    group.add_argument("--mixup", type=float, help="0 for none (default: 0.8)")
    group.add_argument("--cutmix", type=float, help="0 for none (default: 1.0)")
    group.add_argument("--label-smoothing", type=float, help="(default: 0.1)")
    group.add_argument("--auto-augment", help="timm's name; '' for none (default: rand-m9-mstd0.5-inc1)")
    group.add_argument("--random-erase", type=float, help="probability (default: 0.25)")
    add_training_flags(parser)
    add_image_flags(parser, "fail", "another, which the seed decides, takes its place")
    add_evaluation_flags(parser, "top1")
    return parser


def main() -> None:
    """Check, start the processes, train."""
    args = argument_parser().parse_args()
    from hiera_det.cli.processes import machines, settings_from
    from hiera_det.tasks.classify.train import read_inputs, train
    from hiera_det.tasks.processes import train_everywhere
    from hiera_det.tasks.settings import ClassifierSettings

    train_everywhere(train, read_inputs, settings_from(ClassifierSettings, args), **machines(args))
