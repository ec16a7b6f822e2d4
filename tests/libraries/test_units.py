"""Which units of torchvision's and timm's networks can be exchanged: all groups are found by the graph alone, permuted
at random, and the outputs compared in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from libraries.networks import LARGE, SMALLEST, TIMM, image_size, plain, torchvision
from modeconn_cli.engine import symmetry
from modeconn_cli.engine.networks import graph, weights
from modeconn_cli.engine.networks.inputs import Images
from modeconn_cli.engine.symmetry.permutation import random_order

# One of each kind: residual, dense, inverted, grouped and depthwise, shuffled, attention of several forms, mixers.
QUICK = (
    "torchvision:resnet18", "torchvision:shufflenet_v2_x0_5", "torchvision:mobilenet_v3_small",
    "torchvision:squeezenet1_1", "torchvision:regnet_x_400mf", "timm:test_vit", "timm:test_coatnet",
    "timm:test_convnext", "timm:test_mambaout", "timm:xcit_nano_12_p8_224", "timm:ghostnet_050",
)  # fmt: skip
WHOLE = 100_000_000  # parameters up to which outputs are computed


def names() -> list[Any]:
    every = [
        *(f"torchvision:{name}" for name in dict.fromkeys((*SMALLEST, *torchvision()))),
        *(f"timm:{name}" for name in (*TIMM, *LARGE)),
    ]
    marks = {True: pytest.mark.slow, False: pytest.mark.table}
    return [pytest.param(name, marks=marks[name in QUICK]) for name in every]


def stirred(model: nn.Module) -> nn.Module:
    """The network with values that differ everywhere: norms that begin as one and zero would hide a wrong order."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in weights.tensors_of(model).values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand_like(tensor)).add_(0.02 * torch.rand_like(tensor))
    return model.eval()


@pytest.mark.filterwarnings("ignore")  # of the libraries' own constructors
@pytest.mark.parametrize("name", names())
def test_all_groups_are_found_and_proven(name: str, record_property: pytest.RecordProperty) -> None:
    model = stirred(plain(name))
    inputs = Images((3, image_size(model), image_size(model)))
    found = symmetry.find(graph.trace(model, inputs))
    units = sum(group.size for group in found.groups)
    parameters = sum(p.numel() for p in model.parameters())
    row = [name, f"{parameters:,}", len(found.groups), f"{units:,}", len(found.fixed)]
    if parameters > WHOLE:
        record_property("row", (*row, "not computed"))
        return
    draw = np.random.default_rng(0)
    orders = {group: random_order(group, draw) for group in found.groups}
    state = weights.tensors_of(model)
    permuted = symmetry.permute(state, orders)
    assert any(not torch.equal(permuted[key], state[key]) for key in state)
    difference = symmetry.output_difference(model, state, permuted, symmetry.random_inputs(inputs, 0))
    record_property("row", (*row, f"{difference.off / difference.scale:.0e}"))
    assert difference.kind == torch.float64
    assert difference.is_rounding
