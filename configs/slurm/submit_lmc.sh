#!/usr/bin/env bash
#SBATCH --job-name=lmc
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@180
#SBATCH --output=%x-%j.log
# Linear mode connectivity: branches off a training run and the straight lines back to it.
#
#   PRESET     mnist, cifar10, tiny-imagenet, imagenet or digits (cifar10)
#   OUT        folder of the results
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-.}/configs/slurm/common.sh"

PRESET=${PRESET:-cifar10}
OUT=${OUT:-results/lmc/$PRESET}

job "$OUT" mcx lmc run --preset "$PRESET" --output-dir "$OUT"
