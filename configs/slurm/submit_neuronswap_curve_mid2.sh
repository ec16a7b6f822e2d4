#!/usr/bin/env bash
#SBATCH --job-name=neuronswap_curve_mid2
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@180
#SBATCH --output=%x-%j.log
# Train the curve between seed0 and its copy with one pair of neurons swapped in a mid layer.
#
#   RESULTS    folder of the experiment (results/vgg16/cifar10)
#   CONFIG     settings (configs/garipov/vgg16_curve_neuronswap_mid2_reg.yaml)
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-.}/configs/slurm/common.sh"

RESULTS=${RESULTS:-results/vgg16/cifar10}
CONFIG=${CONFIG:-configs/garipov/vgg16_curve_neuronswap_mid2_reg.yaml}
OUT=$RESULTS/curve_neuronswap_mid2_reg

job "$OUT/checkpoints" mcx curve train --config "$CONFIG" --output-dir "$OUT"
