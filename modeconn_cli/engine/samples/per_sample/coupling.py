"""Whether a network treats every sample of a batch by itself, and the same way twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError

TRIED = 32  # samples of a batch that is tried
TOLERANCE = 1e-3  # relative to the largest logit: other batch sizes take other kernels


@torch.no_grad()
def check_independent(model: nn.Module, images: Tensor) -> None:
    """Run a batch [N, …] twice, then in halves. Raises InputError where the logits differ, or are none."""
    model.eval()
    first, again = model(images), model(images)
    if not (isinstance(first, Tensor) and first.ndim == 2):
        what = f"a tensor {tuple(first.shape)}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
        raise InputError(
            f"the network gives {what}, not logits [samples, classes]",
            "wrap it in a module that returns the logits",
        )
    scale = first.abs().max().clamp_min(1e-6)
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        difference = float((first - again).abs().max() / scale)
        if difference > TOLERANCE:
            raise InputError(
                f"the network gives other logits for the same batch (relative difference {difference:.1e})",
                "something in it is random in eval mode: scores of single samples would be noise",
            )
    half = (len(images) + 1) // 2
    if half == len(images):
        return
    parts = torch.cat([model(images[:half]), model(images[half:])])
    difference = float((first - parts).abs().max() / scale)
    if not difference <= TOLERANCE and bool(torch.isfinite(first).all()):
        raise InputError(
            f"the network's logits for a sample depend on the rest of its batch (relative difference {difference:.1e})",
            "scores of single samples need a network that treats them alone in eval mode: no batch statistics",
        )
