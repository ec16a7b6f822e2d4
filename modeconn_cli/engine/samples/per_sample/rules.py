"""What the gradient of every sample by an operation's parameters is, from the operation's inputs and the gradient
by its output.

A rule gives its squared norm without the gradient itself where that is cheaper, the gradient where the parameter is
used elsewhere too, and ⟨θ, ∇ℓ⟩. Shapes: N samples, T positions of one sample, samples first.
Squared norms by inner products over positions: Rochette et al. 2019, arXiv:1912.06015; Li et al. 2022,
arXiv:2110.05679. Operations without a rule are left to `fallback`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

from modeconn_cli.engine.networks.sample_axis import SampleAxis
from modeconn_cli.engine.samples.per_sample import convolution

PRODUCTS = 1 << 18
CHUNK = 1 << 24  # elements of an intermediate that is made for some samples at a time


@dataclass
class Call:
    """An operation that has run: its arguments, its output where the rule needs it, and the gradient that arrived."""

    args: Sequence[Any]
    out: Tensor | None
    data_axis: SampleAxis | None  # of the data among the arguments
    output_axis: SampleAxis
    arrived: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        return [t for t in (*self.args, self.out) if isinstance(t, Tensor)]

    def clear(self) -> None:
        """Free what it holds: hooks live as long as the graph does."""
        self.args, self.out, self.arrived = (), None, None

    def arg(self, place: int) -> Any:
        """An argument; None where it is missing."""
        return self.args[place] if len(self.args) > place else None

    def data(self) -> Tensor:
        """The data that the operation took, its first argument, [N, …]."""
        assert self.data_axis is not None
        return self.data_axis.first(self.args[0])

    def output(self) -> Tensor:
        """What it computed, [N, …]."""
        assert self.out is not None
        return self.output_axis.first(self.out)

    def gradient(self) -> Tensor:
        """∂ℓ_i/∂output, [N, …]."""
        assert self.arrived is not None
        return self.output_axis.first(self.arrived)


class Rule(ABC):
    """One kind of operation. `places`: which arguments may be parameters."""

    places: Collection[int]
    needs_output = False  # for ⟨θ, ∇ℓ⟩
    shared_axis = False  # whether the samples may share their axis with other entries

    @abstractmethod
    def gradient(self, call: Call, place: int) -> Tensor:
        """∇ℓ_i by the parameter at a place, [N, *its shape]."""

    def squares(self, call: Call, place: int) -> Tensor:
        """Σ_i (∇ℓ_i)² by every element of the parameter at a place, in its shape."""
        return self.gradient(call, place).square().sum(0)

    def norms(self, call: Call, places: Collection[int], inner: bool) -> tuple[Tensor, Tensor | None]:
        """‖∇ℓ_i‖² and, if asked for, ⟨θ, ∇ℓ_i⟩, over the parameters at these places, [N] each."""
        gradients = {place: by_sample(self.gradient(call, place)) for place in places}
        squares = torch.stack([gradient.square().sum(1) for gradient in gradients.values()]).sum(0)
        if not inner:
            return squares, None
        products = [gradient @ call.arg(place).flatten() for place, gradient in gradients.items()]
        return squares, torch.stack(products).sum(0)


class Weighted(Rule):
    """output = weight ∗ data + bias: linear layers and convolutions."""

    places = (1, 2)
    needs_output = True

    def gradient(self, call: Call, place: int) -> Tensor:
        return self.by_weight(call) if place == 1 else self.by_bias(call)

    def squares(self, call: Call, place: int) -> Tensor:
        return self.weight_squares(call) if place == 1 else super().squares(call, place)

    def norms(self, call: Call, places: Collection[int], inner: bool) -> tuple[Tensor, Tensor | None]:
        bias, zero = call.arg(2), torch.zeros(())
        by_bias = None if bias is None or not (inner or 2 in places) else self.by_bias(call)
        squares = self.weight_norms(call) if 1 in places else zero
        if by_bias is not None and 2 in places:
            squares = squares + by_bias.square().sum(1)
        if not inner:
            return squares, None
        shifted = zero if by_bias is None else by_bias @ bias
        if 1 not in places:
            return squares, shifted
        both = dot(call.gradient(), call.output())  # ⟨W, ∇_W ℓ⟩ + ⟨b, ∇_b ℓ⟩ = Σ gradient · output
        return squares, both if 2 in places else both - shifted

    @abstractmethod
    def by_weight(self, call: Call) -> Tensor:
        """∇_W ℓ_i, [N, *weight]."""

    @abstractmethod
    def by_bias(self, call: Call) -> Tensor:
        """∇_b ℓ_i, [N, outputs]."""

    @abstractmethod
    def weight_norms(self, call: Call) -> Tensor:
        """‖∇_W ℓ_i‖², [N]."""

    @abstractmethod
    def weight_squares(self, call: Call) -> Tensor:
        """Σ_i (∇_W ℓ_i)², in the weight's shape; the gradients of a few samples at a time."""


class Linear(Weighted):
    """Any number of leading axes: data [N, T, inputs], gradient [N, T, outputs]."""

    shared_axis = True

    def by_weight(self, call: Call) -> Tensor:
        return _product(*self._rows(call))

    def by_bias(self, call: Call) -> Tensor:
        return self._rows(call)[1].sum(1)

    def weight_norms(self, call: Call) -> Tensor:
        x, g = self._rows(call)
        positions, inputs, outputs = x.shape[1], x.shape[2], g.shape[2]
        if positions == 1:
            return x.square().sum((1, 2)) * g.square().sum((1, 2))
        if positions * (inputs + outputs) <= inputs * outputs:
            return torch.cat(_chunks(_inner_products, positions**2, x, g))
        return torch.cat(
            _chunks(lambda x, g: _product(x, g).flatten(1).square().sum(1), inputs * outputs, x, g)
        )

    def weight_squares(self, call: Call) -> Tensor:
        x, g = self._rows(call)
        if x.shape[1] == 1:
            return g[:, 0].square().T @ x[:, 0].square()
        return torch.stack(
            _chunks(lambda x, g: _product(x, g).square().sum(0), x.shape[2] * g.shape[2], x, g)
        ).sum(0)

    @staticmethod
    def _rows(call: Call) -> tuple[Tensor, Tensor]:
        """Data and gradient, [N, …, D] -> [N, T, D]."""
        x, g = call.data(), call.gradient()
        return x.reshape(len(x), -1, x.shape[-1]), g.reshape(len(g), -1, g.shape[-1])


class Convolution(Weighted):
    """A convolution in two dimensions, strided, dilated, grouped: the cheapest of three exact ways, by the shapes."""

    def by_weight(self, call: Call) -> Tensor:
        return convolution.weight_gradients(*self._operands(call))

    def by_bias(self, call: Call) -> Tensor:
        return call.gradient().flatten(2).sum(2)

    def weight_norms(self, call: Call) -> Tensor:
        return convolution.weight_norms(*self._operands(call))

    def weight_squares(self, call: Call) -> Tensor:
        return convolution.weight_squares(*self._operands(call))

    @staticmethod
    def _operands(call: Call) -> tuple[Tensor, Tensor, Tensor, convolution.Geometry]:
        return call.data(), call.gradient(), call.arg(1), convolution.geometry(call.args)


class BatchNorm(Rule):
    """Batch norm in eval mode: (x − mean) / √(var + ε) with running statistics, times weight plus bias."""

    places = (1, 2)

    def gradient(self, call: Call, place: int) -> Tensor:
        g = _positions(call.gradient())
        summed = g.sum(2)
        if place == 2:
            return summed
        mean, deviation = call.arg(3), (call.arg(4) + call.arg(7)).rsqrt()
        found: Tensor = (dot(g, _positions(call.data()), 2) - summed * mean) * deviation
        return found


class LayerNorm(Rule):
    """Layer norm over the last axes, with any positions before them."""

    places = (2, 3)

    def gradient(self, call: Call, place: int) -> Tensor:
        g, shape = call.gradient(), list(call.arg(1))
        if place == 2:
            eps = 1e-5 if call.arg(4) is None else call.arg(4)
            g = g * F.layer_norm(call.data(), shape, None, None, eps)
        positions = g.ndim - 1 - len(shape)
        return g.flatten(1, positions).sum(1) if positions else g


class Broadcast(Rule):
    """Sums and products of data and a parameter, and a parameter repeated for every sample, as class tokens are."""

    places = (0, 1)
    shared_axis = True

    def __init__(self, name: str) -> None:
        self.name = name

    def gradient(self, call: Call, place: int) -> Tensor:
        g, parameter = call.arrived, call.arg(place)
        assert g is not None
        values = call.output_axis.first(g * call.arg(1 - place) if self.name == "mul" else g)
        return _reduced(values, call.output_axis, g.ndim, parameter.shape)


def by_sample(values: Tensor) -> Tensor:
    """[N, …] -> [N, entries]; a parameter without axes has one."""
    return values.reshape(len(values), -1)


def dot(a: Tensor, b: Tensor, first: int = 1) -> Tensor:
    """Σ a·b over the axes from `first` on. The products are made for a few samples at a time, within the cache."""
    size = max(1, PRODUCTS // max(a[0].numel(), 1))
    pairs = zip(torch.split(a, size), torch.split(b, size), strict=True)
    return torch.cat([(x * y).flatten(first).sum(first) for x, y in pairs])


def _reduced(values: Tensor, axis: SampleAxis, dims: int, shape: Sequence[int]) -> Tensor:
    """Sum [N, …] over the axes that a parameter of `shape` was broadcast along; the samples' own axis is one."""
    whole = (
        values if values.ndim > dims else values.unsqueeze(axis.number + 1)
    )  # `dims` axes behind the samples
    wanted = (1,) * (dims - len(shape)) + tuple(shape)
    over = [k + 1 for k, size in enumerate(wanted) if size == 1 and whole.shape[k + 1] != 1]
    reduced = whole.sum(over, keepdim=True) if over else whole
    return reduced.reshape(len(values), *shape)


def _positions(values: Tensor) -> Tensor:
    """[N, C, …] -> [N, C, T]; without any positions T is 1."""
    return values.reshape(*values.shape[:2], -1)


def _product(x: Tensor, g: Tensor) -> Tensor:
    return g.transpose(1, 2) @ x


def _inner_products(x: Tensor, g: Tensor) -> Tensor:
    """‖gᵀx‖² of every sample, by the inner products over positions."""
    found: Tensor = vecdot((x @ x.transpose(1, 2)).flatten(1), (g @ g.transpose(1, 2)).flatten(1))
    return found


def _chunks(function: Callable[[Tensor, Tensor], Tensor], each: int, x: Tensor, g: Tensor) -> list[Tensor]:
    """A function that makes `each` elements per sample, of some samples at a time."""
    size = max(1, CHUNK // each)
    return [function(*pair) for pair in zip(torch.split(x, size), torch.split(g, size), strict=True)]


RULES: dict[str, Rule] = {
    "linear": Linear(),
    "conv2d": Convolution(),
    "batch_norm": BatchNorm(),
    "layer_norm": LayerNorm(),
    **{name: Broadcast(name) for name in ("add", "mul", "expand")},
}
