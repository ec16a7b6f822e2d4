"""Whether a network treats every sample of a batch by itself, and the same way twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.forward import logits

TRIED = 32  # samples that are enough to see it
TOLERANCE = 1e-3  # relative to the largest logit: other batch sizes take other kernels


@torch.no_grad()
def check_independent(model: nn.Module, images: Tensor, classes: int = 0) -> None:
    """Run a batch [N, …] twice, then in halves. Raises InputError where the logits differ, or are none or fewer than
    the classes.

    A network that writes into its input is given copies from then on.
    """
    images = images.clone()
    written = images.clone()
    first = logits(model.eval(), written)
    if not torch.equal(written.nan_to_num(), images.nan_to_num()):
        model.register_forward_pre_hook(_copied)
    again = logits(model, images)
    if first.shape[1] < classes:
        raise InputError(
            f"the network gives {first.shape[1]} logits, the data have {classes} classes",
            "pass the --model and --model-arg of a network with as many",
        )
    scale = first.abs().max().clamp_min(1e-6)
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        difference = float((first - again).abs().max() / scale)
        if difference > TOLERANCE:
            raise InputError(
                f"the network gives other logits for the same batch (relative difference {difference:.1e})",
                "something in it is random in eval mode: what is measured of single samples would be noise",
            )
    half = (len(images) + 1) // 2
    if half == len(images):
        return
    parts = torch.cat([logits(model, images[:half]), logits(model, images[half:])])
    difference = float((first - parts).abs().max() / scale)
    if not difference <= TOLERANCE and bool(torch.isfinite(first).all()):
        raise InputError(
            f"the network's logits for a sample depend on the rest of its batch (relative difference {difference:.1e})",
            "figures would depend on --batch-size: give batch norms running statistics, or use another normalisation",
        )


def _copied(_model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.clone() if isinstance(each, Tensor) else each for each in inputs)
