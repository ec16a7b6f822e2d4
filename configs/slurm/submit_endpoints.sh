#!/usr/bin/env bash
#SBATCH --job-name=endpoints
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --array=0-1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@180
#SBATCH --output=%x-%j.log
# Train the endpoints, one seed per task of the array.
#
#   RESULTS    folder of the experiment (results/vgg16/cifar10)
#   CONFIG     settings (configs/garipov/vgg16_endpoints.yaml)
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-.}/configs/slurm/common.sh"

RESULTS=${RESULTS:-results/vgg16/cifar10}
CONFIG=${CONFIG:-configs/garipov/vgg16_endpoints.yaml}
SEED=${SLURM_ARRAY_TASK_ID:-0}
OUT=$RESULTS/endpoints/checkpoints

job "$OUT/seed$SEED" mcx train --config "$CONFIG" --seeds "$SEED" --output-dir "$OUT"
