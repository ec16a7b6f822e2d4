"""Convolutions in tiles against the same in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modeconn_cli.engine.samples.per_sample import winograd
from modeconn_cli.engine.samples.per_sample.curvature import measure
from modeconn_cli.engine.samples.per_sample.execution import Execution

ROUNDING = 4e-6  # of float32, relative to the root mean square of what is compared; measured below 1.5e-6


def convolution(outputs: int, inputs: int, *size: int, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images, weight and bias."""
    torch.manual_seed(0)
    return torch.randn(count, inputs, *size), torch.randn(outputs, inputs, 3, 3), torch.randn(outputs)


def off(found: Tensor, exact: Tensor) -> float:
    found, exact = found.detach(), exact.detach()
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 11),
    inputs=st.sampled_from([1, 3, 16, 40]),
    outputs=st.sampled_from([1, 5, 32]),
    count=st.integers(1, 3),
    bias=st.booleans(),
)
def test_any_shape_is_the_convolution(
    height: int, width: int, inputs: int, outputs: int, count: int, bias: bool
) -> None:
    images, weight, shift = convolution(outputs, inputs, height, width, count=count)
    own = shift if bias else None
    images.requires_grad_()
    found = winograd.convolve(images, winograd.Kernel.of(weight, own))
    exact = F.conv2d(images.double(), weight.double(), None if own is None else own.double(), padding=1)
    assert found.shape == exact.shape
    assert off(found, exact) < ROUNDING
    upstream = torch.randn_like(found)
    (a,), (b,) = (
        torch.autograd.grad(out, images, upstream.to(out.dtype), retain_graph=True) for out in (found, exact)
    )
    assert off(a, b) < ROUNDING


def test_its_rounding_is_that_of_the_direct_kernels() -> None:
    images, weight, bias = convolution(256, 256, 8, 8, count=16)
    exact = F.conv2d(images.double(), weight.double(), bias.double(), padding=1)
    last = images.contiguous(memory_format=torch.channels_last)
    direct = F.conv2d(last, weight, bias, padding=1)
    assert off(winograd.convolve(images, winograd.Kernel.of(weight, bias)), exact) < 3 * off(direct, exact)


def test_its_points_round_less_than_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight, _ = convolution(128, 128, 8, 8, count=8)
    exact = F.conv2d(images.double(), weight.double(), padding=1)
    ours = off(winograd.convolve(images, winograd.Kernel.of(weight, None)), exact)
    monkeypatch.setattr(winograd, "NEAR", 1.0)
    monkeypatch.setattr(winograd, "FAR", 2.0)
    assert off(winograd.convolve(images, winograd.Kernel.of(weight, None)), exact) > 1.2 * ours


def test_it_multiplies_a_third_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight, _ = convolution(8, 16, 6, 8, count=5)
    done: list[int] = []
    for owner, name in ((torch, "bmm"), (Tensor, "baddbmm_")):
        plain = getattr(owner, name)

        def counted(*given: Tensor, plain=plain) -> Tensor:  # type: ignore[no-untyped-def]
            done.append(given[-2].numel() * given[-1].shape[-1])
            return plain(*given)

        monkeypatch.setattr(owner, name, counted)
    winograd.convolve(images, winograd.Kernel.of(weight, None))
    assert sum(done) == 5 * 6 * 8 * 8 * 16 * 9 // 3


def test_a_value_does_not_depend_on_the_batch() -> None:
    images, weight, bias = convolution(128, 128, 8, 8, count=160)
    kernel = winograd.Kernel.of(weight, bias)
    assert winograd.convolve(images[:0], kernel).shape == (0, 128, 8, 8)
    whole, order = winograd.convolve(images, kernel), torch.randperm(160)
    for rows in (order[:16], order[16:64], order[64:]):
        assert torch.equal(winograd.convolve(images[rows], kernel), whole[rows])


def tiles(execution: Execution) -> int:
    """How many convolutions run in tiles under the present weights."""
    assert execution._program is not None
    return len(execution._program._kernels)


class Wide(nn.Module):
    """Convolutions that suit, in-place operations on what they give, and some that do not suit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 128, 3, padding=1)
        self.norm = nn.BatchNorm2d(128)
        self.one = nn.Conv2d(128, 128, 3, padding=1, bias=False)
        self.two = nn.Conv2d(128, 128, 3, padding=1)
        self.pointwise = nn.Conv2d(128, 128, 1, padding=1)
        self.strided = nn.Conv2d(128, 128, 3, stride=2, padding=1)
        self.bare = nn.Conv2d(128, 128, 3)
        self.spread = nn.Conv2d(128, 128, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(128, 128, 3, padding=1, groups=2)
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.stem(x))
        y = self.norm(self.one(x))
        y += x
        y = F.softplus(self.two(F.softplus(y)).mul_(0.5))
        y = self.strided(self.grouped(self.spread(self.pointwise(self.bare(y)))))
        return self.head(y.mean((2, 3)))


def networks() -> tuple[nn.Module, Execution, Execution]:
    torch.manual_seed(0)
    model = Wide().eval()
    with torch.no_grad():
        for own in (model.norm.weight, model.norm.bias, model.norm.running_mean, model.norm.running_var):
            own.uniform_(0.5, 1.5)
    return model, Execution(model, (3, 8, 8)), Execution(Wide().double().eval(), (3, 8, 8))


def test_networks_take_it_where_it_suits() -> None:
    model, execution, exact = networks()
    assert tiles(execution) == 2
    assert tiles(exact) == 0
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    for _ in range(2):
        found, expected = execution(images), model(images)
        assert off(found, expected) < ROUNDING
        (a,) = torch.autograd.grad(found.square().sum(), images)
        (b,) = torch.autograd.grad(expected.square().sum(), images)
        assert off(a, b) < ROUNDING
        with torch.no_grad():
            model.two.weight.mul_(1.5)  # type: ignore[union-attr, operator]
        execution.refresh()


@pytest.mark.parametrize("method", ["fd", "hvp"])
def test_curvature_is_that_of_the_model(method: str) -> None:
    model, execution, _ = networks()
    images, labels, ids = torch.randn(3, 3, 8, 8), torch.arange(3), torch.arange(3)
    how = {"h": 1e-2, "draws": 2, "temperature": 1.0, "seed": 0, "method": method}
    found = measure(execution, images, labels, ids, **how)  # type: ignore[arg-type]
    exact = measure(model.double(), images.double(), labels, ids, **how)  # type: ignore[arg-type]
    torch.testing.assert_close(
        found.curvature, exact.curvature, rtol=3e-3 if method == "fd" else 3e-5, atol=0
    )
    whole = torch.arange(40)
    many = torch.randn(40, 3, 8, 8)
    together = measure(execution, many, whole % 5, whole, **how)  # type: ignore[arg-type]
    rows = whole.flip(0)[5:28]
    some = measure(execution, many[rows], rows % 5, rows, **how)  # type: ignore[arg-type]
    torch.testing.assert_close(some.curvature, together.curvature[rows], rtol=1e-5, atol=0)


class Plain(nn.Module):
    """A wide convolution between two layers, the second of which may compare."""

    def __init__(self, after: nn.Module, *, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 128, 3, padding=1, bias=bias)
        self.wide = nn.Conv2d(128, 128, 3, padding=1, bias=bias)
        self.after, self.head = after, nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.after(self.wide(F.relu(self.stem(x))))).mean((2, 3)))


@pytest.mark.parametrize(
    ("after", "tiled"),
    [
        (nn.MaxPool2d(2), 0),
        (nn.AdaptiveMaxPool2d(2), 0),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(128, 128, 1), nn.MaxPool2d(2)), 0),
        (nn.AvgPool2d(2), 1),
        (nn.Softmax(1), 1),
    ],
    ids=["max", "adaptive max", "later", "mean", "softmax"],
)
def test_what_a_maximum_is_taken_of_is_not_tiled(after: nn.Module, tiled: int) -> None:
    """Equal patches get equal outputs, and the first of them the gradient, as in float64."""
    torch.manual_seed(0)
    model = Plain(after).eval()
    execution = Execution(model, (3, 8, 8))
    assert tiles(execution) == tiled
    images = torch.full((2, 3, 8, 8), 0.7, requires_grad=True)
    (found,) = torch.autograd.grad(execution(images).square().sum(), images)
    model, exact = model.double(), images.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(model(exact).square().sum(), exact)
    assert off(found, expected) < ROUNDING


def test_what_is_exactly_zero_stays_so() -> None:
    """Without a shift, a black background is zero everywhere, and no ReLU lets its gradient through."""
    torch.manual_seed(0)
    model = Plain(nn.Identity(), bias=False).eval()
    execution = Execution(model, (3, 12, 12))
    assert tiles(execution) == 0
    images = torch.zeros(2, 3, 12, 12)
    images[:, :, 5:7, 5:7] = torch.rand(2, 3, 2, 2)
    images.requires_grad_()
    (found,) = torch.autograd.grad(execution(images).square().sum(), images)
    model, exact = model.double(), images.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(model(exact).square().sum(), exact)
    assert off(found, expected) < ROUNDING


def test_a_layer_takes_tiles_when_its_shift_has_come() -> None:
    torch.manual_seed(0)
    model = Plain(nn.BatchNorm2d(128), bias=False).eval()
    execution = Execution(model, (3, 8, 8))
    assert tiles(execution) == 0
    with torch.no_grad():
        model.after.bias.uniform_(0.1, 0.2)  # type: ignore[operator, union-attr]
        model.after.weight[:7] = 0  # type: ignore[index]
        model.after.bias[:7] = 0  # type: ignore[index]
    said = execution.layout
    execution.refresh()
    assert tiles(execution) == 1
    assert "up to 1 convolutions by Winograd" in said
    assert execution.layout == said
    images = torch.rand(4, 3, 8, 8)
    assert off(execution(images), model(images)) < ROUNDING


def test_odd_sizes_may_be_written_into() -> None:
    images, weight, bias = convolution(4, 4, 7, 5)
    found = winograd.convolve(images.requires_grad_(), winograd.Kernel.of(weight, bias)).mul_(2)
    exact = F.conv2d(images.double(), weight.double(), bias.double(), padding=1) * 2
    assert off(found, exact) < ROUNDING


def test_under_autocast_it_stays_in_float32() -> None:
    images, weight, bias = convolution(4, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = winograd.convolve(images, winograd.Kernel.of(weight, bias))
    assert off(found, F.conv2d(images.double(), weight.double(), bias.double(), padding=1)) < ROUNDING
