"""What the gradient of every sample by an operation's parameters is, from the operation's inputs and the gradient
by its output.

A rule gives its squared norm without the gradient itself where that is cheaper, the gradient where the parameter is
used elsewhere too, and ⟨θ, ∇ℓ⟩. Shapes: N samples, T positions of one sample, samples first.
Squared norms by inner products over positions: Rochette et al. 2019, arXiv:1912.06015; Li et al. 2022,
arXiv:2110.05679.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

from modeconn_cli.engine.networks.layout import Layout
from modeconn_cli.engine.samples.per_sample import convolution

PRODUCTS = 1 << 18
CHUNK = 1 << 24  # elements of an intermediate that is made for some samples at a time


@dataclass
class Met:
    """An operation that has run: its arguments and output, and the gradient by the output once it is known."""

    args: Sequence[Any]
    out: Tensor | None  # where the rule needs it
    arrived: Tensor | None
    inside: Layout | None  # of the data among the arguments
    outside: Layout

    @property
    def gradient(self) -> Tensor:
        """∂ℓ/∂out as it is laid out."""
        assert self.arrived is not None
        return self.arrived

    def tensors(self) -> list[Tensor]:
        return [t for t in (*self.args, self.out) if isinstance(t, Tensor)]

    def clear(self) -> None:
        """Free what it holds: hooks live as long as the graph does."""
        self.args, self.out, self.arrived = (), None, None

    def grad(self) -> Tensor:
        """∂ℓ_i/∂out, [N, …]."""
        return self.outside.first(self.gradient)

    def output(self) -> Tensor:
        assert self.out is not None
        return self.outside.first(self.out)

    def data(self, place: int = 0) -> Tensor:
        """The data that the operation took, [N, …]."""
        assert self.inside is not None
        return self.inside.first(self.args[place])

    def arg(self, place: int, default: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else default


class Rule(ABC):
    """One kind of operation. `places`: argument number -> name of the parameter that can stand there."""

    places: Mapping[int, str]
    needs_output = False  # for ⟨θ, ∇ℓ⟩
    merged = True  # whether it can deal with samples that share their axis

    @abstractmethod
    def gradient(self, met: Met, part: int) -> Tensor:
        """∇ℓ_i by the parameter at a place, [N, *its shape]."""

    def squares(self, met: Met, part: int) -> Tensor:
        """Σ_i (∇ℓ_i)² by every element of the parameter at a place, in its shape."""
        return self.gradient(met, part).square().sum(0)

    def measure(self, met: Met, parts: set[int], inner: bool) -> tuple[Tensor, Tensor | None]:
        """‖∇ℓ_i‖² and, if asked for, ⟨θ, ∇ℓ_i⟩, over the parameters at these places, [N] each."""
        gradients = {part: by_sample(self.gradient(met, part)) for part in parts}
        squares = torch.stack([gradient.square().sum(1) for gradient in gradients.values()]).sum(0)
        if not inner:
            return squares, None
        products = [gradient @ met.arg(part).flatten() for part, gradient in gradients.items()]
        return squares, torch.stack(products).sum(0)


class Weighted(Rule):
    """out = weight ∗ data + bias: linear layers and convolutions."""

    places: Mapping[int, str] = MappingProxyType({1: "weight", 2: "bias"})
    needs_output = True

    def measure(self, met: Met, parts: set[int], inner: bool) -> tuple[Tensor, Tensor | None]:
        bias = met.arg(2)
        summed = self.bias(met) if 2 in parts or (inner and bias is not None) else None
        zero = met.gradient.new_zeros(len(met.grad()))
        squares = self.weight_norms(met) if 1 in parts else zero
        if 2 in parts and summed is not None:
            squares = squares + summed.square().sum(1)
        if not inner:
            return squares, None
        along = zero if summed is None else summed @ bias
        if 1 not in parts:
            return squares, along
        both = dot(met.grad(), met.output())  # ⟨W, ∇_W ℓ⟩ + ⟨b, ∇_b ℓ⟩ = Σ g · out
        return squares, both if 2 in parts else both - along

    def gradient(self, met: Met, part: int) -> Tensor:
        return self.weight(met) if part == 1 else self.bias(met)

    def squares(self, met: Met, part: int) -> Tensor:
        return self.weight_squares(met) if part == 1 else super().squares(met, part)

    @abstractmethod
    def weight_squares(self, met: Met) -> Tensor:
        """Σ_i (∇_W ℓ_i)², in the weight's shape; the gradients of a few samples at a time."""

    @abstractmethod
    def weight_norms(self, met: Met) -> Tensor:
        """‖∇_W ℓ_i‖², [N]."""

    @abstractmethod
    def weight(self, met: Met) -> Tensor:
        """∇_W ℓ_i, [N, *weight]."""

    @abstractmethod
    def bias(self, met: Met) -> Tensor:
        """∇_b ℓ_i, [N, outputs]."""


class Linear(Weighted):
    """Any number of leading axes: A [N, T, D_in], G [N, T, D_out]."""

    def weight_norms(self, met: Met) -> Tensor:
        a, g = _rows(met.data()), _rows(met.grad())
        positions, inputs, outputs = a.shape[1], a.shape[2], g.shape[2]
        if positions == 1:
            return a.square().sum((1, 2)) * g.square().sum((1, 2))
        if positions * (inputs + outputs) <= inputs * outputs:
            return _in_chunks(_gram_norms, positions**2, a, g)
        return _in_chunks(_product_norms, inputs * outputs, a, g)

    def weight(self, met: Met) -> Tensor:
        return _rows(met.grad()).transpose(1, 2) @ _rows(met.data())

    def weight_squares(self, met: Met) -> Tensor:
        a, g = _rows(met.data()), _rows(met.grad())
        if a.shape[1] == 1:
            return g[:, 0].square().T @ a[:, 0].square()
        size = max(1, CHUNK // (a.shape[2] * g.shape[2]))
        pairs = zip(torch.split(a, size), torch.split(g, size), strict=True)
        return torch.stack([(y.transpose(1, 2) @ x).square().sum(0) for x, y in pairs]).sum(0)

    def bias(self, met: Met) -> Tensor:
        return _rows(met.grad()).sum(1)


class Convolution(Weighted):
    """1-D to 3-D, strided, dilated, grouped; the cheapest of three exact ways, by the shapes."""

    def weight_norms(self, met: Met) -> Tensor:
        return convolution.weight_norms(met.data(), met.grad(), met.arg(1), convolution.geometry(met.args))

    def weight(self, met: Met) -> Tensor:
        return convolution.weight_gradients(
            met.data(), met.grad(), met.arg(1), convolution.geometry(met.args)
        )

    def weight_squares(self, met: Met) -> Tensor:
        return convolution.weight_squares(met.data(), met.grad(), met.arg(1), convolution.geometry(met.args))

    def bias(self, met: Met) -> Tensor:
        grad, dims = met.grad(), met.arg(1).ndim
        return grad.flatten(2).sum(2) if grad.ndim == dims else grad.sum([1, *range(3, grad.ndim)])


class Normalised(Rule):
    """out = weight · x̂ + bias, with x̂ free of parameters."""

    def __init__(self, weight: int, bias: int | None) -> None:
        self.weight_place = weight
        self.places = {weight: "weight", **({} if bias is None else {bias: "bias"})}

    def gradient(self, met: Met, part: int) -> Tensor:
        return self.weight(met) if part == self.weight_place else self.bias(met)

    @abstractmethod
    def weight(self, met: Met) -> Tensor: ...

    @abstractmethod
    def bias(self, met: Met) -> Tensor: ...


class BatchNorm(Normalised):
    """In eval mode: x̂ = (x − mean) / √(var + ε), with running statistics."""

    merged = False

    def __init__(self) -> None:
        super().__init__(1, 2)

    def weight(self, met: Met) -> Tensor:
        mean, deviation = met.arg(3), (met.arg(4) + met.arg(7)).rsqrt()
        g, x = met.grad(), met.data()
        found: Tensor = (dot(g, x, 2) - g.flatten(2).sum(2) * mean) * deviation
        return found

    def bias(self, met: Met) -> Tensor:
        return met.grad().flatten(2).sum(2)


class LastAxes(Normalised):
    """Layer norm and RMS norm: over the last axes, any positions before them."""

    def __init__(self, weight: int, bias: int | None, *, rms: bool) -> None:
        super().__init__(weight, bias)
        self.rms = rms

    def weight(self, met: Met) -> Tensor:
        shape = list(met.args[1])
        if self.rms:
            hat = F.rms_norm(met.data(), shape, None, met.arg(3))
        else:
            hat = F.layer_norm(met.data(), shape, None, None, met.arg(4, 1e-5))
        return self._over_positions(met.grad() * hat, len(shape))

    def bias(self, met: Met) -> Tensor:
        return self._over_positions(met.grad(), len(met.args[1]))

    @staticmethod
    def _over_positions(values: Tensor, kept: int) -> Tensor:
        between = values.ndim - 1 - kept
        return values.flatten(1, between).sum(1) if between else values


class GroupNorm(Normalised):
    merged = False

    def __init__(self) -> None:
        super().__init__(2, 3)

    def weight(self, met: Met) -> Tensor:
        hat = F.group_norm(met.data(), met.args[1], None, None, met.arg(4, 1e-5))
        return dot(met.grad(), hat, 2)

    def bias(self, met: Met) -> Tensor:
        return met.grad().flatten(2).sum(2)


class Broadcast(Rule):
    """Sums, differences, products and quotients of data and a parameter."""

    places: Mapping[int, str] = MappingProxyType({0: "parameter", 1: "parameter"})

    def __init__(self, name: str) -> None:
        self.name = name
        self.needs_output = name == "div"

    def gradient(self, met: Met, part: int) -> Tensor:
        g, other = met.gradient, met.arg(1 - part)
        parameter: Tensor = met.arg(part)
        if self.name == "mul":
            g = g * other
        elif self.name == "div":
            out = met.out
            assert out is not None
            g = g / other if part == 0 else -g * out / parameter
        elif self.name == "sub" and part == 1:
            g = -g
        return reduce_to(met.outside.first(g), met.outside, met.gradient.ndim, parameter.shape)


class Expand(Rule):
    """A parameter repeated for every sample, as class tokens are."""

    places: Mapping[int, str] = MappingProxyType({0: "parameter"})

    def gradient(self, met: Met, part: int) -> Tensor:
        parameter: Tensor = met.arg(part)
        return reduce_to(met.grad(), met.outside, met.gradient.ndim, parameter.shape)


class Embedding(Rule):
    places: Mapping[int, str] = MappingProxyType({0: "weight"})

    def gradient(self, met: Met, part: int) -> Tensor:
        return torch.cat(list(self._gradients(met, part, len(met.grad()))))

    def squares(self, met: Met, part: int) -> Tensor:
        size = max(1, CHUNK // met.arg(part).numel())
        return torch.stack([some.square().sum(0) for some in self._gradients(met, part, size)]).sum(0)

    def _gradients(self, met: Met, part: int, size: int) -> Iterator[Tensor]:
        """The gradients of `size` samples at a time, [n, *weight]."""
        weight: Tensor = met.arg(part)
        index, g = met.data(1).flatten(1), met.grad().flatten(1, -2)
        if met.arg(2, -1) >= 0:
            g = g * (index != met.arg(2)).unsqueeze(2)
        for rows, values in zip(torch.split(index, size), torch.split(g, size), strict=True):
            out = g.new_zeros(len(values), *weight.shape)
            yield out.scatter_add_(1, rows.unsqueeze(2).expand_as(values), values)


def by_sample(values: Tensor) -> Tensor:
    """[N, …] -> [N, entries]; a parameter without axes has one."""
    return values.reshape(len(values), -1)


def dot(a: Tensor, b: Tensor, first: int = 1) -> Tensor:
    """Σ a·b over the axes from `first` on. The products are made for a few samples at a time, within the cache."""
    size = max(1, PRODUCTS // max(a[0].numel(), 1))
    pairs = zip(torch.split(a, size), torch.split(b, size), strict=True)
    return torch.cat([(x * y).flatten(first).sum(first) for x, y in pairs])


def reduce_to(values: Tensor, layout: Layout, dims: int, shape: Sequence[int]) -> Tensor:
    """Sum [N, …] over the axes that a parameter of `shape` was broadcast along; the samples' own axis is one."""
    whole = (
        values if values.ndim > dims else values.unsqueeze(layout.axis + 1)
    )  # `dims` axes behind the samples
    wanted = (1,) * (dims - len(shape)) + tuple(shape)
    over = [k + 1 for k, size in enumerate(wanted) if size == 1 and whole.shape[k + 1] != 1]
    reduced = whole.sum(over, keepdim=True) if over else whole
    return reduced.reshape(len(values), *shape)


def _rows(values: Tensor) -> Tensor:
    """[N, …, D] -> [N, T, D]."""
    return values.reshape(len(values), -1, values.shape[-1])


def _gram_norms(a: Tensor, g: Tensor) -> Tensor:
    along: Tensor = vecdot((a @ a.transpose(1, 2)).flatten(1), (g @ g.transpose(1, 2)).flatten(1))
    return along


def _product_norms(a: Tensor, g: Tensor) -> Tensor:
    return (g.transpose(1, 2) @ a).flatten(1).square().sum(1)


def _in_chunks(function: Callable[..., Tensor], each: int, *tensors: Tensor) -> Tensor:
    """A function of whole samples that makes `each` elements per sample, for some samples at a time."""
    size = max(1, CHUNK // each)
    parts = zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
    return torch.cat([function(*part) for part in parts])


RULES: dict[str, Rule] = {
    "linear": Linear(),
    "conv1d": Convolution(),
    "conv2d": Convolution(),
    "conv3d": Convolution(),
    "batch_norm": BatchNorm(),
    "layer_norm": LastAxes(2, 3, rms=False),
    "rms_norm": LastAxes(2, None, rms=True),
    "group_norm": GroupNorm(),
    "embedding": Embedding(),
    "expand": Expand(),
    **{name: Broadcast(name) for name in ("add", "sub", "mul", "div")},
}
