#!/bin/sh
# A training on SLURM: `sbatch tools/train_slurm.sh` after setting partition, account and paths to yours.
# Two minutes before its time limit the training is told so, saves, ends with 143 and is put back into the queue; so it
# is after a node failure. Then it goes on with the very next image.
#SBATCH --job-name=hiera_det
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --distribution=block
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u

: "${DETECTRON2_DATASETS:=$HOME/datasets}"
export DETECTRON2_DATASETS

# srun starts one process per GPU; they find each other by what it sets. No --num-gpus, no --dist-url.
srun --kill-on-bad-exit=1 python tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml --auto-resume \
    OUTPUT_DIR "output/hiera_b" DATALOADER.NUM_WORKERS 7
status=$?
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
