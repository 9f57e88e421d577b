#!/bin/sh
# A training on SLURM: `sbatch tools/train_slurm.sh` after setting partition, account and paths to yours.
# A job that is requeued, after a node failure or at its time limit, goes on from its last checkpoint.
#SBATCH --job-name=hiera_det
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --distribution=block
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -eu

: "${DETECTRON2_DATASETS:=$HOME/datasets}"
export DETECTRON2_DATASETS

# srun starts one process per GPU; they find each other by what it sets. No --num-gpus, no --dist-url.
srun --kill-on-bad-exit=1 python tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml --auto-resume \
    OUTPUT_DIR "output/hiera_b" DATALOADER.NUM_WORKERS 7
