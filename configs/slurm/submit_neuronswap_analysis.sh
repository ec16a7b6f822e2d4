#!/usr/bin/env bash
#SBATCH --job-name=neuronswap_analysis
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --mem=16G
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@180
#SBATCH --output=%x-%j.log
# Measure how far each layer moves along a trained curve, and draw it: sbatch --export=ALL,EXPERIMENT=late2 …
#
#   RESULTS    folder of the experiment (results/vgg16/cifar10)
#   EXPERIMENT early2, mid2 or late2 (mid2)
#   EPOCH      epoch of the endpoints (200)
#   CURVE_EPOCH epoch of the curve (200)
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-.}/configs/slurm/common.sh"

RESULTS=${RESULTS:-results/vgg16/cifar10}
EXPERIMENT=${EXPERIMENT:-mid2}
EPOCH=${EPOCH:-200}
CURVE_EPOCH=${CURVE_EPOCH:-200}
CURVE=$RESULTS/curve_neuronswap_${EXPERIMENT}_reg

job "$CURVE/analysis" mcx curve analyze --curve-checkpoint "$CURVE/checkpoints/checkpoint-$CURVE_EPOCH.pt" \
    --original-checkpoint "$RESULTS/endpoints/checkpoints/seed0/checkpoint-$EPOCH.pt" \
    --swap-metadata "$RESULTS/endpoints_neuronswap/$EXPERIMENT/checkpoint-${EPOCH}_metadata.json" \
    --output-dir "$CURVE/analysis" --num-points 61
mcx animate --data "$CURVE/analysis/layer_distances_along_curve.npz" \
    --output "$CURVE/analysis/layer_distances_evolution.gif" --fps 10 --metric normalized_l2 --heatmap
