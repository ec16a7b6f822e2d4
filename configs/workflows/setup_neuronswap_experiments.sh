#!/usr/bin/env bash
# Make the endpoints of the neuron-swap experiments: one pair of neurons swapped early, mid and late in seed0, and
# its mirror image (all hidden units in reverse order). Each comes with the proof that it computes the same function.
#
#   RESULTS  folder of the experiment          (results/vgg16/cifar10)
#   EPOCH    epoch of the trained endpoint     (200)
#   FLAGS    further flags of mcx swap, such as --data-path or --model
set -euo pipefail

RESULTS=${RESULTS:-results/vgg16/cifar10}
EPOCH=${EPOCH:-200}
read -r -a FLAGS <<< "${FLAGS:-}"
SEED0=$RESULTS/endpoints/checkpoints/seed0/checkpoint-$EPOCH.pt

for depth in early mid late; do
    mcx swap --checkpoint "$SEED0" --output "$RESULTS/endpoints_neuronswap/${depth}2/checkpoint-$EPOCH.pt" \
        --layer-depth "$depth" --num-swaps 1 --verify ${FLAGS[@]+"${FLAGS[@]}"}
done
mcx swap --checkpoint "$SEED0" --output "$RESULTS/endpoints_mirror/checkpoint-$EPOCH.pt" --mirror --verify \
    ${FLAGS[@]+"${FLAGS[@]}"}
