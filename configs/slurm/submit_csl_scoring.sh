#!/usr/bin/env bash
#SBATCH --job-name=csl_scoring
#SBATCH --nodes=1
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@180
#SBATCH --output=%x-%j.log
# Score every sample at every checkpoint of a run, on four GPUs; then sum the scores.
#
#   RUN        folder of the checkpoints (results/run/seed0)
#   OUT        folder of the results
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-.}/configs/slurm/common.sh"

RUN=${RUN:-results/run/seed0}
OUT=${OUT:-results/per_sample_losses}

job "$OUT" mcx csl score --checkpoint-dir "$RUN" --output-dir "$OUT"
mcx csl aggregate --input-dir "$OUT" --output-dir "$OUT/aggregated"
