"""Units and samples followed through a graph, against what the same networks compute in plain torch, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from small_networks import Net, randomised
from torch import Tensor, nn

from modeconn_cli.engine.networks.activations.observe import Observer, observer

EPS = 0.05
L, C = nn.Linear, nn.Conv2d
Forward = Callable[
    [Net, Tensor], tuple[Tensor, list[Tensor]]
]  # logits, and the values [N, units, positions] of sites


def looked_at(
    forward: Forward, shape: Sequence[int], **layers: nn.Module | nn.Parameter
) -> tuple[Observer, list[str]]:
    """Compare what is seen after nonlinearities with the values that `forward` returns beside the logits."""
    torch.manual_seed(0)
    model = randomised(Net(lambda m, x: forward(m, x)[0], **layers)).double().eval()
    x, notes = torch.randn(5, *shape, dtype=torch.float64), list[str]()
    observe = observer(model, x[:2], eps=EPS, note=notes.append)
    seen, values = observe(x), [value.abs() for value in forward(model, x)[1]]
    sites = [layer for layer in observe.layers if layer.kind == "post"]
    assert [(site.units, site.positions) for site in sites] == [tuple(value.shape[1:]) for value in values]
    if values:
        quiet = [value.amax(2) <= EPS for value in values]
        torch.testing.assert_close(seen.post, torch.cat(quiet, 1).double().mean(1))
        after = (
            seen.dormant[-sum(site.units for site in sites) :] if len(sites) == len(observe.layers) else None
        )
        assert after is None or torch.equal(after, torch.cat(quiet, 1).double().sum(0))
        torch.testing.assert_close(seen.total, torch.cat([value.sum((0, 2)) for value in values]).detach())
        assert 0 < float(torch.cat(quiet, 1).double().mean()) < 1
    return observe, notes


def last(x: Tensor) -> Tensor:
    """[N, …, units] -> [N, units, positions]."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2)


def small(x: Tensor) -> Tensor:
    """What is squeezed towards zero, so that some units are quiet."""
    return x * torch.linspace(0.001, 1, x.shape[-1], dtype=x.dtype)


def chunked(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    a, b = m.c(x).permute(0, 2, 3, 1).chunk(2, -1)
    h = F.relu(small(a) - 0.02)
    return m.f((h * b).mean((1, 2))), [last(h)]


def split_first(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    a, b = torch.split(m.c(x), [5, 7], 1)
    h = F.relu(a - 0.9)
    return m.f((h * b[:, :5]).mean((2, 3))), [h.flatten(2)]


def unbound(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Linear attention: queries, keys and values are unbound, three heads of four."""
    q, k, v = m.qkv(x).reshape(x.shape[0], -1, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = F.relu(q - 0.6), F.relu(k - 0.6)  # [N, 3, T, 4]
    out = (q @ (k.transpose(2, 3) @ v)).transpose(1, 2).flatten(2)
    h = F.gelu(small(m.o(out)))
    heads = [x.transpose(2, 3).flatten(1, 2) for x in (q, k)]
    return m.f(h.mean(1)), [*heads, last(h)]


def unbound_halves(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    a, b = m.a(x).view(x.shape[0], 2, 6).unbind(1)
    h = F.relu(a - 0.2)
    return m.f(h * b), [h[:, :, None]]


def gated(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = F.glu(small(m.a(x)), -1)
    a, b = m.b(h).chunk(2, 1)
    gate = torch.sigmoid(4 * b - 6)
    return m.f(a * gate), [h[:, :, None], gate[:, :, None]]


def windows(x: Tensor, size: int) -> Tensor:
    n, height, width, units = x.shape
    cut = x.view(n, height // size, size, width // size, size, units)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, units)


def windowed(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Layers in windows of 2 x 2 positions that lie on the axis of the samples."""
    x = m.c(x).permute(0, 2, 3, 1)
    h = F.relu(m.a(windows(x, 2)) - 0.5)  # [N · 4, 4, 9]
    h = m.b(h)
    back = h.view(x.shape[0], 2, 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(x.shape[0], 4, 4, -1)
    out = F.gelu(small(back))
    inside = F.relu(m.a(windows(x, 2)) - 0.5).view(x.shape[0], -1, 9)
    return m.f(out.mean((1, 2))), [last(inside), last(out)]


def in_patches(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """MobileViT's folding: channels pass through the samples' axis, then positions do."""
    n, h = x.shape[0], m.c(x)
    units = h.shape[1]
    rows = h.reshape(x.shape[0] * units * 2, 2, 2, 2).transpose(1, 2)
    rows = rows.reshape(x.shape[0], units, 4, 4).transpose(1, 3).reshape(x.shape[0] * 4, 4, units)
    inside = F.relu(m.a(rows) - 0.3)
    out = m.f(inside.view(x.shape[0], 4, 4, -1).mean((1, 2)))
    return out, [last(inside.reshape(n, 16, -1))]


def on_a_grid(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """MaxViT's grid, channels first in convolutions of every part."""
    x = m.c(x)
    cut = x.view(x.shape[0], -1, 2, 2, 2, 2).permute(0, 3, 5, 1, 2, 4).flatten(0, 2)  # [N · 4, C, 2, 2]
    h = F.relu(m.d(cut) - 0.2)
    by_sample = h.view(x.shape[0], 4, h.shape[1], -1).transpose(1, 2).flatten(2)
    return m.f(h.view(x.shape[0], 4, -1).mean(1)), [by_sample]


def two_views(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Two views of an image behind each other in one batch."""
    both = F.relu(m.c(torch.cat([x, x.flip(3)], 0)) - 0.9)
    one, other = both[: x.shape[0]], both[x.shape[0] :]
    h = torch.stack([one, other], 1)
    return m.f((one + other).mean((2, 3))), [h.transpose(1, 2).flatten(2)]


def tokens_first(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = F.relu(m.a(x.transpose(0, 1).flatten(0, 1)) - 0.5)  # [T · N, 7]
    h = h.view(x.shape[1], x.shape[0], 7)
    return m.f(h.mean(0)), [h.permute(1, 2, 0)]


def shuffled(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = m.c(x)
    h = h.view(x.shape[0], 3, 4, 4, 4).transpose(1, 2).reshape(x.shape[0], 12, 4, 4)
    h = F.relu(h - 0.9)
    return m.f(h.mean((2, 3))), [h.flatten(2)]


def squeezed_along_channels(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """ECA: a convolution over the channels makes their gates."""
    h = m.c(x)
    gate = h.mean((2, 3)).unsqueeze(1)
    gate = torch.sigmoid(9 * m.e(gate) - 4).transpose(1, 2).unsqueeze(-1)
    return m.f((h * gate).mean((2, 3))), [gate.squeeze(-1)]


def by_einsum(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = F.relu(torch.einsum("ntd,hdk->nhtk", x, m.w) - 1)
    return m.f(h.flatten(2).mean(2)), [h.transpose(2, 3).flatten(1, 2)]


def before_any_layer(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = F.relu(x - 1.5)
    return m.f(m.c(h).mean((2, 3))), [h.flatten(2)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


IMAGE = (2, 4, 4)
torch.manual_seed(3)  # the layers of the table draw their weights here
FOLLOWED: dict[str, tuple[Forward, Sequence[int], dict[str, nn.Module | nn.Parameter]]] = {
    "chunk, channels last": (chunked, IMAGE, {"c": C(2, 24, 1), "f": L(12, 3)}),
    "split of channels": (split_first, IMAGE, {"c": C(2, 12, 1), "f": L(5, 3)}),
    "unbound heads": (unbound, (5, 6), {"qkv": L(6, 36), "o": L(12, 8), "f": L(8, 3)}),
    "unbound halves": (unbound_halves, (4,), {"a": L(4, 12), "f": L(6, 3)}),
    "gated units": (gated, (4,), {"a": L(4, 12), "b": L(6, 10), "f": L(5, 3)}),
    "windows": (windowed, IMAGE, {"c": C(2, 6, 1), "a": L(6, 9), "b": L(9, 8), "f": L(8, 3)}),
    "patches": (in_patches, IMAGE, {"c": C(2, 6, 1), "a": L(6, 9), "f": L(9, 3)}),
    "grid": (on_a_grid, IMAGE, {"c": C(2, 6, 1), "d": C(6, 8, 2), "f": L(8, 3)}),
    "two views": (two_views, IMAGE, {"c": C(2, 12, 1), "f": L(12, 3)}),
    "tokens first": (tokens_first, (5, 4), {"a": L(4, 7), "f": L(7, 3)}),
    "channel shuffle": (shuffled, IMAGE, {"c": C(2, 12, 1), "f": L(12, 3)}),
    "gates along channels": (
        squeezed_along_channels, IMAGE, {"c": C(2, 12, 1), "e": nn.Conv1d(1, 1, 3, padding=1), "f": L(12, 3)},
    ),
    "einsum": (by_einsum, (5, 4), {"w": nn.Parameter(torch.randn(2, 4, 6)), "f": L(2, 3)}),
    "before any layer": (before_any_layer, IMAGE, {"c": C(2, 12, 1), "f": L(12, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_units_are_those_of_plain_torch(name: str) -> None:
    forward, shape, layers = FOLLOWED[name]
    _, notes = looked_at(forward, shape, **layers)
    assert all(note.startswith("called more than once") for note in notes)


def hard_swish(x: Tensor) -> Tensor:
    return x * F.relu6(x + 3) / 6


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


WRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), False),
    "swish": (lambda x: torch.sigmoid(x).mul(x), False),
    "swish in place": (lambda x: x.mul_(x.sigmoid()), False),
    "swish cast": (lambda x: x * torch.special.expit(x.float()).to(x.dtype), False),
    "hard swish": (hard_swish, True),
    "hard swish, gate first": (lambda x: F.relu6(x + 3).div(6) * x, True),
    "hard swish by clamp": (lambda x: x * (x + 3).clamp(0, 6) * (1 / 6), True),
    "gelu by tanh": (tanh_gelu, False),
    "gelu by tanh, cubes by products": (
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))), False,
    ),
    "gelu by erf": (lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), False),
    "gelu by a sum": (lambda x: 0.5 * (x + x * torch.erf(x / math.sqrt(2))), False),
    "gelu by the normal distribution": (lambda x: x * torch.special.ndtr(x), False),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), False),
    "mish by logarithms": (lambda x: x * torch.tanh(torch.log1p(torch.exp(x))), False),
    "softsign": (lambda x: x / (1 + x.abs()), False),
    "relu by a mask": (lambda x: x * (x > 0), True),
    "leaky relu by sums": (lambda x: torch.relu(x) - 0.1 * torch.relu(-x), False),
    "leaky relu by a maximum": (lambda x: torch.maximum(x, 0.1 * x), False),
    "elu by a choice": (lambda x: torch.where(x > 0, x, torch.exp(x) - 1), False),
    "relu by a choice": (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), True),
    "relu by filling": (lambda x: x.masked_fill(x < 0, 0.0), True),
    "swish by exponentials": (lambda x: x / (1 + torch.exp(-x)), False),
    "swish, scaled": (lambda x: 1.78 * (x * torch.sigmoid(x)), False),
    "tanhshrink": (nn.Tanhshrink(), False),
    "tanhshrink by a difference": (lambda x: x - torch.tanh(x), False),
    "tanhshrink, turned around": (lambda x: -(torch.tanh(x) - x), False),
    "a value beside its relu": (lambda x: x + 2 * F.relu(x), False),
    "swish by einsum": (lambda x: torch.einsum("bc,bc->bc", x, torch.sigmoid(x)), False),
    "swish, shifted": (lambda x: x * torch.sigmoid(1.5 * x + 0.3), False),
    "swish by a reciprocal": (lambda x: x * (1 / (1 + torch.exp(-x))), False),
    "mish by exponentials": (lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))), False),
    "softplus by exponentials": (lambda x: torch.log(1 + torch.exp(6 * x)), False),
    "softplus by log1p": (lambda x: torch.log1p(torch.exp(6 * x)) / 6, False),
    "sigmoid by exponentials": (lambda x: 1 / (1 + torch.exp(-6 * x)), False),
    "tanh by exponentials": (
        lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)), False,
    ),
    "leaky relu by torch.max": (lambda x: torch.max(x, 0.1 * x), False),
    "leaky relu by a choice": (lambda x: torch.where(x > 0, x, 0.1 * x), False),
    "relu by torch.max": (lambda x: torch.max(x, torch.zeros_like(x)), True),
    "relu by torch.max, zero first": (lambda x: torch.max(torch.zeros_like(x), x), True),
    "soft shrinking": (lambda x: torch.sign(x) * F.relu(x.abs() - 0.5), True),
    "squared relu": (lambda x: torch.relu(x) * torch.relu(x), True),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_a_value_times_a_gate_of_itself_is_one_nonlinearity(name: str) -> None:
    function, zero = WRITTEN[name]

    def forward(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = function(m.a(x))
        return m.f(h), [h[:, :, None]]

    quarter = L(6, 12)
    with torch.no_grad():
        quarter.weight.mul_(4)
    observe, notes = looked_at(forward, (6,), a=quarter, f=L(12, 3))
    assert notes == []
    assert [layer.zero for layer in observe.layers if layer.kind == "post"] == [zero]


GATES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "through a batch norm": lambda m, h: h * torch.sigmoid(m.n(h)),
    "both through batch norms": lambda m, h: m.n(h) * torch.sigmoid(m.k(h)),
    "through a batch norm, as a sum": lambda m, h: h - torch.tanh(m.n(h)),
    "through a parameter for every unit": lambda m, h: h * torch.sigmoid(m.s * h + m.t),
    "a slope for every unit": lambda m, h: torch.where(h > 0, h, m.s * h),
    "a slope for every unit, by a maximum": lambda m, h: torch.max(h, m.s * h),
    "acon": lambda m, h: (1 - m.s) * h * torch.sigmoid(m.t * (1 - m.s) * h) + m.s * h,
}


@pytest.mark.parametrize("name", GATES)
def test_scales_and_a_batch_norm_may_lie_between_a_value_and_its_gate(name: str) -> None:
    """Behind a rectifier, which stays a nonlinearity of its own."""

    def forward(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = F.relu(m.c(x) - 0.5)
        g = GATES[name](m, m.d(h) - 0.2)
        after = GATES[name](m, g.relu())
        return m.f(after.mean((2, 3))), [each.flatten(2) for each in (h, g, g.relu(), after)]

    norms = {"n": nn.BatchNorm2d(12), "k": nn.BatchNorm2d(12)}
    scales = {name: nn.Parameter(torch.rand(12, 1, 1)) for name in "st"}
    layers = {"c": C(2, 12, 1), "d": C(12, 12, 1), "f": L(12, 3)}
    _, notes = looked_at(forward, IMAGE, **layers, **norms, **scales)
    assert not [note for note in notes if "called more than once" not in note]


def test_half_of_the_units_at_zero_are_half_of_the_units() -> None:
    class Swish(nn.Module):
        """With a parameter for every unit."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.f, self.beta = nn.Conv2d(1, 8, 3), L(8, 3), nn.Parameter(torch.rand(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.f((h * torch.sigmoid(self.beta * h)).mean((2, 3)))

    model = Swish()
    with torch.no_grad():
        model.a.weight[::2] = 0
        model.a.bias[::2] = 0  # type: ignore[index]
    x = torch.randn(4, 1, 5, 5)
    assert observer(model, x, eps=1e-6)(x).post.tolist() == [0.5] * 4


def test_what_is_no_gate_of_itself_stays_two_nonlinearities() -> None:
    """Squeeze and excitation, a cell's gates, and a gate that something else reads too."""

    def excited(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = F.relu(m.c(x) - 0.9)
        gate = torch.sigmoid(9 * m.s(h.mean((2, 3), keepdim=True)) - 3)
        return m.f((h * gate).mean((2, 3))), [h.flatten(2), gate.flatten(2)]

    def cell(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        i, g = small(m.a(x)).chunk(2, 1)
        i, g = torch.sigmoid(9 * i - 4), torch.tanh(g)
        return m.f(i * g), [i[:, :, None], g[:, :, None]]

    def swiglu(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = F.silu(small(m.a(x)))
        return m.f(h * m.b(x)), [h[:, :, None]]

    def normalised(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A layer norm mixes the units."""
        h = m.a(x)
        gate = torch.sigmoid(3 * m.n(h) - 2)
        return m.f(h * gate), [gate[:, :, None]]

    def read_twice(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = m.a(x)
        gate = torch.sigmoid(4 * h - 2)
        return m.f(h * gate) + m.b(gate), [gate[:, :, None], (h * gate)[:, :, None]]

    looked_at(excited, IMAGE, c=C(2, 12, 1), s=C(12, 12, 1), f=L(12, 3))
    looked_at(cell, (4,), a=L(4, 12), f=L(6, 3))
    looked_at(swiglu, (4,), a=L(4, 12), b=L(4, 12), f=L(12, 3))
    looked_at(normalised, (4,), a=L(4, 12), n=nn.LayerNorm(12), f=L(12, 3))
    looked_at(read_twice, (4,), a=L(4, 12), b=L(12, 3), f=L(12, 3))


def test_units_that_lie_nowhere_are_named_and_the_others_counted() -> None:
    """A ReLU of attention's scores acts on pairs of positions."""

    def scores(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = F.relu(m.a(x) - 0.5)
        mixed = F.relu(h @ h.transpose(1, 2)) @ h
        return m.f(mixed.mean(1)), [last(h)]

    _, notes = looked_at(scores, (5, 4), a=L(4, 7), f=L(7, 3))
    assert notes == ["left out, as it is not known along which axis their units lie: relu#2"]


def mixed_up(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A view that puts units of several samples into one row."""
    h = F.relu(m.a(x) - 0.2)
    both = torch.cat([h, h], 0).view(x.shape[0], 12)
    other = F.relu(m.b(both[:, 3:9]))
    return m.f(h) + m.f(other), [h[:, :, None]]


def turned_around(m: Net, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = F.relu(m.a(x) - 0.2)
    return m.f(h) + m.f(F.relu(m.b(h.roll(1, 0)))), [h[:, :, None]]


@pytest.mark.parametrize("forward", [mixed_up, turned_around])
def test_layers_whose_samples_are_mixed_are_named_and_the_others_counted(forward: Forward) -> None:
    observe, notes = looked_at(forward, (4,), a=L(4, 6), b=L(6, 6), f=L(6, 3))
    assert [layer.name for layer in observe.layers if layer.kind == "pre"] == ["a", "f"]
    assert any(
        note.startswith("left out, as their samples cannot be told apart: b, relu#2, f#2") for note in notes
    )
