#!/usr/bin/env bash
# Measure how far every endpoint of the experiments lies from seed0: one JSON file per pair and a summary.
#
#   RESULTS  folder of the experiment          (results/vgg16/cifar10)
#   EPOCH    epoch of the trained endpoints    (200)
set -euo pipefail

RESULTS=${RESULTS:-results/vgg16/cifar10}
EPOCH=${EPOCH:-200}
FILE=checkpoint-$EPOCH.pt

mcx l2 "seed0=$RESULTS/endpoints/checkpoints/seed0/$FILE" "seed1=$RESULTS/endpoints/checkpoints/seed1/$FILE" \
    "mirror=$RESULTS/endpoints_mirror/$FILE" "early2=$RESULTS/endpoints_neuronswap/early2/$FILE" \
    "mid2=$RESULTS/endpoints_neuronswap/mid2/$FILE" "late2=$RESULTS/endpoints_neuronswap/late2/$FILE" \
    --pairs first --output-dir "$RESULTS/endpoint_l2_distances" "$@"
