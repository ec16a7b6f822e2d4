"""REPAIR: in a blend of networks every channel keeps mean and standard deviation between those of its members.

Each pre-activation (`preactivations`) is scaled and shifted by channel, so that over the training images and all
positions its mean is Σ share · μ and its standard deviation Σ share · σ, those of the members in eval mode with their
own statistics: at t between two ends the shares are 1 − t and t. Source: Jordan et al. 2023, arXiv:2211.08403. Shapes:
C channels of a layer.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import graph, weights
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.paths import preactivations
from modeconn_cli.engine.paths.preactivations import Preactivation


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel over samples and positions, float64 [C]."""

    mean: Tensor
    sd: Tensor

    @classmethod
    def between(cls, members: Sequence[Moments], shares: Sequence[float]) -> Moments:
        """Σ share · mean, and Σ share · standard deviation."""
        share = torch.tensor(shares, dtype=torch.float64, device=members[0].mean.device)[:, None]
        mean, sd = (torch.stack([getattr(each, name) for each in members]) for name in ("mean", "sd"))
        return cls((share * mean).sum(0), (share * sd).sum(0))


@dataclass(frozen=True)
class Correction:
    """What gives a channel other moments: value · scale + shift, float64 [C]. Constant channels are only shifted."""

    scale: Tensor
    shift: Tensor
    constant: int

    @classmethod
    def to(cls, wanted: Moments, found: Moments) -> Correction:
        """No ε: scale = σ_wanted / σ_found, 1 where σ_found is 0."""
        constant = found.sd == 0
        scale = torch.where(constant, 1.0, wanted.sd / torch.where(constant, 1.0, found.sd))
        return cls(scale, wanted.mean - scale * found.mean, int(constant.sum()))


def passes(places: Sequence[Preactivation]) -> float:
    """About how many passes over the images it takes to repair these pre-activations in one blend (`Repair`)."""
    depth = max((each.depth for each in places), default=0)
    return (depth + 1) / 2 if depth else 0


def places(model: nn.Module, input_shape: tuple[int, ...]) -> list[Preactivation]:
    """The pre-activations of a network. Raises InputError for layers that cannot be repaired."""
    return preactivations.find(model, graph.trace(model, input_shape))


class Repair:
    """A network whose pre-activations are repaired in blends of the same members.

    Exact, layer by layer: the moments of a layer are measured with all layers before it repaired. That costs one pass
    over the images per depth and blend, which ends behind the layers of that depth: about half as many whole passes
    as the network is deep. The members cost one pass each.
    """

    def __init__(self, model: nn.Module, samples: Samples, batch_size: int, seed: int) -> None:
        first = next(iter(samples.batches(1))).images
        self.places = places(model, tuple(first.shape[1:]))
        self.members: list[list[Moments]] = []
        self.passes = 0  # forward passes over batches
        self.constant = 0  # channels that were only shifted in the last blend
        self._model, self._samples, self._batch_size = model, samples, batch_size
        self._order = keyed.permutation(seed, "statistics", len(samples))
        self._hooks: list[RemovableHandle] = []
        # What the hooks do, by the node of the graph whose value they take.
        self.corrections: dict[str, Callable[[Tensor], Tensor]] = {}

    @property
    def unwritten(self) -> list[str]:
        """The layers that have no parameters for what repairs them: forward hooks do it."""
        return [place.name for place in self.places if not place.affine]

    def check_written(self, hint: str) -> None:
        """Raises InputError, naming them, for layers whose repair no parameter of theirs can hold."""
        if self.unwritten:
            raise InputError(
                f"no parameters of their own can hold the shift of {weights.shortened(self.unwritten)}: no bias and no "
                "batch norm directly behind, or a weight that is shared or computed from others",
                hint,
            )

    def take_member(self) -> None:
        """Measure the network as it is, which is the next member; of a path first endpoint 0, then endpoint 1."""
        found = self._measure(self.places)
        self.members.append(
            [_behind_norm(place, each) for place, each in zip(self.places, found, strict=True)]
        )

    @torch.no_grad()
    def apply(self, shares: Sequence[float]) -> None:
        """Repair the network, which holds the blend with these shares, a share per member; they add up to 1.

        Scale and shift go into the parameters of a batch norm, of a layer, or, where a batch norm has none, of the
        layer before it and the running mean. Other layers get a hook, until `undo`.
        """
        self.constant = 0
        wanted = [Moments.between(each, shares) for each in zip(*self.members, strict=True)]
        places = sorted(zip(self.places, wanted, strict=True), key=lambda each: each[0].depth)  # stable
        for _, level in itertools.groupby(places, key=lambda each: each[0].depth):
            aims = list(level)
            found = self._measure([place for place, _ in aims])
            for (place, aim), moments in zip(aims, found, strict=True):
                self._repair(place, aim, moments)

    def undo(self) -> None:
        """Take the hooks out of the network."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.corrections.clear()

    def _repair(self, place: Preactivation, wanted: Moments, found: Moments) -> None:
        if place.norm is not None:
            _take_statistics(place.norm, found)
        found = _behind_norm(place, found)
        correction = Correction.to(wanted, found)
        self.constant += correction.constant
        module = place.norm if place.norm is not None else place.layer
        assert module is not None
        if not place.affine:
            act = functools.partial(_corrected, correction, place.axis)
            self._hooks.append(module.register_forward_hook(lambda _module, _inputs, output: act(output)))
            self.corrections[place.node] = act
        elif place.norm is not None and place.norm.weight is None:
            _fuse_before(place, correction)
        else:
            _scale(module, correction.scale)
            bias = module.bias
            assert isinstance(bias, Tensor)
            bias.copy_(bias.double() * correction.scale + correction.shift)

    @torch.no_grad()
    def _measure(self, places: Sequence[Preactivation]) -> list[Moments]:
        """The moments of what these layers give, or of what their batch norms take, in one pass over the images."""
        if not places:
            return []
        self._model.eval()
        sums = [_Sums(place, last=place is places[-1]) for place in places]
        hooks = [each.listen() for each in sums]
        try:
            for batch in self._samples.batches(self._batch_size, order=self._order):
                with contextlib.suppress(_Enough):
                    forward(self._model, batch.images)
                self.passes += 1
        finally:
            for hook in hooks:
                hook.remove()
        return [each.moments() for each in sums]


class _Enough(BaseException):
    """Ends a forward whose rest nobody looks at; no `Exception`, which would be taken for the network's own."""


class _Sums:
    """Sums over samples and positions in float64, around each channel's first value: nothing cancels, and a constant
    channel has a standard deviation of exactly 0.
    """

    def __init__(self, place: Preactivation, *, last: bool) -> None:
        self._place, self._last = place, last
        self._count, self._digits = 0, 0.0
        self._first = self._sum = self._squares = torch.empty(0)

    def listen(self) -> RemovableHandle:
        """Hear what the batch norm takes, else what the layer gives."""
        norm, layer = self._place.norm, self._place.layer

        def taken(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if module is norm:  # not of a copy of the network, which is tried
                self._add(inputs[0])

        def given(module: nn.Module, _inputs: Any, output: Any) -> None:
            if module is layer:
                self._add(output)

        if norm is not None:
            return norm.register_forward_pre_hook(taken)
        assert layer is not None
        return layer.register_forward_hook(given)

    def _add(self, value: Tensor) -> None:
        if value.is_complex():
            raise InputError(f"the layer '{self._place.name}' gives complex numbers: they are not repaired")
        rows = value.movedim(self._place.axis, -1).reshape(-1, value.shape[self._place.axis]).double()
        if not self._count:
            self._first = rows[0].clone()
            self._sum, self._squares = torch.zeros_like(self._first), torch.zeros_like(self._first)
            self._digits = torch.finfo(value.dtype).eps
        rows = rows - self._first
        self._count += len(rows)
        self._sum += rows.sum(0)
        self._squares += rows.square_().sum(0)
        if self._last:
            raise _Enough

    def moments(self) -> Moments:
        """The variance is that of all values. One that is below the rounding of its mean is that of a constant."""
        if not self._count:
            raise InputError(
                f"the layer '{self._place.name}' is not called as a module: it cannot be repaired"
            )
        off = self._sum / self._count
        mean = self._first + off
        sd = (self._squares / self._count - off.square()).clamp(min=0).sqrt()
        return Moments(mean, torch.where(sd <= self._digits * mean.abs(), 0.0, sd))


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and 1 / √(running variance + ε) of a batch norm, float64 [C]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.double(), (norm.running_var.double() + norm.eps).rsqrt()


def _behind_norm(place: Preactivation, found: Moments) -> Moments:
    """The moments behind a batch norm, of those before it: it is affine. Without one they stay."""
    norm = place.norm
    if norm is None:
        return found
    mean, factor = _statistics(norm)
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    return Moments((found.mean - mean) * factor * weight + bias, found.sd * factor * weight.abs())


def _take_statistics(norm: _BatchNorm, found: Moments) -> None:
    """Give a batch norm the statistics of what it takes; a constant channel keeps its variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(found.mean)
    norm.running_var.copy_(torch.where(found.sd == 0, norm.running_var.double(), found.sd.square()))


def _fuse_before(place: Preactivation, correction: Correction) -> None:
    """Scale and shift the output of a batch norm without parameters by the layer before it and the running mean."""
    norm, layer = place.norm, place.layer
    assert norm is not None
    assert norm.running_mean is not None
    assert layer is not None
    mean, factor = _statistics(norm)
    _scale(layer, correction.scale)
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() * correction.scale)
    norm.running_mean.copy_(mean * correction.scale - correction.shift / factor)


def _scale(module: nn.Module, scale: Tensor) -> None:
    """Scale the weight of a module by output channel; batch norm has one number per channel."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, _ConvTransposeNd):  # [inputs, outputs per group, …]
        blocks = scale.view(module.groups, 1, -1).expand(-1, len(weight) // module.groups, -1)
        scale = blocks.reshape(len(weight), -1)
    weight.copy_(weight.double() * scale.view(*scale.shape, *[1] * (weight.ndim - scale.ndim)))


def _corrected(correction: Correction, axis: int, output: Tensor) -> Tensor:
    """Scale and shift each channel of an output, in float64 and back."""
    channels = [1] * output.ndim
    channels[axis] = -1
    scale, shift = correction.scale.view(channels), correction.shift.view(channels)
    return (output.double() * scale + shift).to(output.dtype)
