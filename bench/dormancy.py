"""Dormant units of ResNet-18 (CIFAR stem) at both kinds of sites, with tau and frequency, against a plain forward."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.pairs import Pair
from bench.per_sample import batch, network
from modeconn_cli.engine.networks.activations.observe import observer


def prepare(_folder: Path, count: int) -> Pair:
    model, (images, _) = network(), batch(count)
    observe = observer(model, images[:2], eps=1e-6)

    def plain() -> None:
        with torch.no_grad():
            model(images)

    units = sum(layer.units for layer in observe.layers)
    return Pair(lambda: observe(images), plain, (f"{len(observe.layers)} sites, {units:,} units",))
