"""Hessians along a path against dense ones in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeconn_cli.engine.datasets.samples import Samples
from modeconn_cli.engine.datasets.transforms import named
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.paths.sharpness import Asked, Products, asked, largest


def samples(count: int = 40, classes: int = 3) -> Samples:
    draw = torch.Generator().manual_seed(3)
    images = torch.rand(count, 1, 3, 3, generator=draw)
    labels = torch.randint(0, classes, (count,), generator=draw)
    return Samples(images, labels, torch.arange(count), named("none", 1))


def ask(data: Samples, top: int, draws: int, count: int | None = None) -> Asked:
    return asked(top, draws, count, data, 7, 0, frozenset({0.0}), lambda: None)


class Doubled(nn.Module):
    """A network in float64 on images in float32."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *layers).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.double())


def dense(model: nn.Module, data: Samples) -> Tensor:
    """The Hessian [P, P] in float64, a row per second backward pass."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        loss = F.cross_entropy(model.eval()(data.images.to(parameters[0].dtype)), data.labels)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [
        torch.cat(
            [
                g.reshape(-1)
                for g in torch.autograd.grad(
                    entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ]
        )
        for entry in gradient
    ]
    return torch.stack(rows)


def test_softmax_regression_has_its_closed_form() -> None:
    torch.manual_seed(0)
    model, data = Doubled(nn.Linear(9, 3)), samples()
    x = torch.cat([data.images.double().flatten(1), torch.ones(40, 1, dtype=torch.float64)], 1)
    p = model(data.images).softmax(1).detach()
    curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    whole = torch.einsum("nab,ni,nj->aibj", curved, x, x) / 40  # rows of the weight, each with its bias
    expected = torch.cat([whole[:, :9].reshape(27, 3, 10), whole[:, 9:].reshape(3, 3, 10)])
    expected = torch.cat([expected[:, :, :9].reshape(30, 27), expected[:, :, 9]], 1)
    products = Products(model, data, 7)
    for row, v in zip(expected, torch.eye(30, dtype=torch.float64), strict=True):
        torch.testing.assert_close(products(v), row, rtol=1e-12, atol=1e-15)
    values = np.linalg.eigvalsh(expected.numpy())[::-1]
    np.testing.assert_allclose(np.array(largest(products, 4, 0), dtype=float), values[:4], rtol=1e-10)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3)),
        lambda: (nn.Linear(9, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3)),
        lambda: (nn.Unflatten(1, (1, 9)), nn.TransformerEncoderLayer(9, 3, 5, 0.1, batch_first=True), nn.Flatten()),
    ],
)  # fmt: skip
def test_trained_networks_have_the_values_of_their_dense_hessian(layers: Callable) -> None:
    torch.manual_seed(1)
    model, data = Doubled(*layers()), samples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(30):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(data.images), data.labels).backward()
        optimizer.step()
    expected = dense(model, data).numpy()
    found = ask(data, 3, 4).measure(model)
    np.testing.assert_allclose(
        np.array(found.top, dtype=float), np.linalg.eigvalsh(expected)[::-1][:3], rtol=1e-8
    )
    draws = [ask(data, 0, 1)._signs(Products(model, data, 7), k).numpy() for k in range(4)]
    assert all(set(np.unique(v)) == {-1, 1} for v in draws)
    values = [v @ expected @ v for v in draws]
    assert found.trace == pytest.approx(np.mean(values), rel=1e-10)
    assert found.trace_stderr == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-10)


def test_the_trace_lies_within_its_standard_error() -> None:
    torch.manual_seed(2)
    model, data = Doubled(nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)), samples()
    found = ask(data, 0, 200).measure(model)
    assert found.products == 200
    assert abs(found.trace - float(dense(model, data).trace())) < 4 * found.trace_stderr


def test_single_precision_is_that_of_double() -> None:
    torch.manual_seed(4)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)), samples()
    found = ask(data, 2, 0).measure(model)
    expected = np.linalg.eigvalsh(dense(model.double(), data).numpy())[::-1][:2]
    np.testing.assert_allclose(np.array(found.top, dtype=float), expected, rtol=1e-5)


def test_frozen_parameters_and_a_subset_are_left_out() -> None:
    torch.manual_seed(5)
    model, data = Doubled(nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3)), samples()
    model.layers[1].requires_grad_(False)
    few = ask(data, 2, 0, 20)
    assert len(few.samples) == 20
    expected = dense(model, few.samples)
    assert expected.shape == (15, 15)
    values = np.linalg.eigvalsh(expected.numpy())[::-1][:2]
    np.testing.assert_allclose(np.array(few.measure(model).top, dtype=float), values, rtol=1e-8)
    model.requires_grad_(False)
    with pytest.raises(InputError, match="every parameter of the network is frozen"):
        ask(data, 1, 0).measure(model)


def test_no_hessian_and_a_broken_one_are_told_apart() -> None:
    data = samples()
    flat = Doubled(nn.Linear(9, 3))
    with torch.no_grad():
        flat.layers[1].weight.zero_()
        flat.layers[1].bias.copy_(torch.tensor([2000.0, 0, 0]))
    assert ask(data, 2, 1).measure(flat).top == [0, 0]
    with torch.no_grad():
        flat.layers[1].weight.fill_(torch.nan)
    broken = ask(data, 2, 1).measure(flat)
    assert (broken.top, broken.trace) == ([None, None], None)
    with pytest.raises(SettingsError, match="--hessian-top 30: the network has 30 trained parameters"):
        ask(data, 30, 0).measure(flat)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor) -> Tensor:
        return 2 * g


def test_a_network_without_second_derivatives_is_refused() -> None:
    class Net(Doubled):
        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(super().forward(x))

    with pytest.raises(InputError, match="the network has no second derivatives"):
        ask(samples(), 1, 0).measure(Net(nn.Linear(9, 3)))
