"""Train and evaluate a detector that a LazyConfig describes: a Python file, as ViTDet's are.

A LazyConfig is a program, and this tool runs it: give it only files that you trust. Keys are set by key=value at the
end of the command line. Nothing follows from another batch: set optimizer.lr and train.max_iter with it.

Examples:
    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_hiera_b_100ep.py --num-gpus 8
    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_hiera_t_100ep.py \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val \
        dataloader.train.total_batch_size=4 optimizer.lr=1e-5 train.max_iter=3000 train.output_dir=output/mine
    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_hiera_b_100ep.py --eval-only \
        train.init_checkpoint=model_final.pth
"""

from __future__ import annotations

import sys

try:
    # isort: split
    import hiera_det.d2  # noqa: F401  first: says how to install detectron2
    from hiera_det.cli.detector_flags import run_request, training_parser
    from hiera_det.d2.lazy.run import train_by_lazy_config
    from hiera_det.d2.lazy.setup import setup_lazy_config, training_device
    from hiera_det.d2.lazy.translate import naming_nodes
    from hiera_det.d2.train.launch import launch_tool
except ImportError as error:
    sys.exit(f"error: {error}")


def main() -> None:
    """Parse the command line and start as many processes as it asks for."""
    request = run_request(training_parser(__doc__, "train.output_dir").parse_args())
    with naming_nodes():
        launch_tool(
            train_by_lazy_config, request, check=lambda: setup_lazy_config(request), device=training_device(request)
        )
