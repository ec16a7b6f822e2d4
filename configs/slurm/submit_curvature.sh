#!/usr/bin/env bash
#SBATCH --job-name=curvature
#SBATCH --nodes=1
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@180
#SBATCH --output=%x-%j.log
# Curvature of every sample's loss over the epochs of a run, on four GPUs.
#
#   RUN        folder of the checkpoints (results/run/seed0)
#   OUT        folder of the results
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-.}/configs/slurm/common.sh"

RUN=${RUN:-results/run/seed0}
OUT=${OUT:-results/curvature}

job "$OUT" mcx curvature --checkpoint-dir "$RUN" --output-dir "$OUT" \
    --start-epoch "${START:-0}" --end-epoch "${END:-200}" --step "${STEP:-20}"
