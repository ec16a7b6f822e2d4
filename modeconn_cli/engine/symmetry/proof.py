"""The proof of a symmetry: the outputs of both state dicts, compared in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.untouched import untouched_copy


def output_difference(
    model: nn.Module, original: Mapping[str, Tensor], changed: Mapping[str, Tensor], inputs: Tensor
) -> tuple[float, float]:
    """(max |f(x; changed) − f(x; original)|, max |f(x; original)|) over a batch, in float64 and eval mode.

    Where the two are one function up to the order of its sums, the first is below 1e-9 times the second. NaN
    outputs give NaN. `model` gives the architecture and the device and is not changed.
    """
    worker = untouched_copy(model).double().eval()
    device = next((tensor.device for tensor in weights.tensors_of(worker).values()), inputs.device)
    inputs = inputs.to(device)
    if inputs.is_floating_point():
        inputs = inputs.double()
    before = _outputs(worker, original, inputs)
    after = _outputs(worker, changed, inputs)
    return float((after - before).abs().max()), float(before.abs().max())


def _outputs(worker: nn.Module, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """All output tensors of a forward pass as one vector."""
    full = worker.state_dict()
    differ = sorted({name for name, value in full.items() if isinstance(value, Tensor)} ^ state.keys())
    if differ:
        raise InputError(f"{differ[0]} is {'missing' if differ[0] in full else 'not in the model'}")
    weights.load(worker, state)
    with torch.no_grad():
        outputs = worker(inputs)
    tensors = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return torch.cat([tensor.double().flatten() for tensor in tensors])
