"""Many networks of one architecture as one: their tensors stacked, their layers one set of kernels.

A small network spends its step on calling kernels. `torch.func` runs the forward once for all members, as batched
products; autograd of the summed losses gives each its own gradients, and an optimizer that works element by element
takes the step that it would take on each alone. Whether a network can be run so is tried: random numbers, control flow
that looks at values and statistics that are reassigned cannot.

Shapes: M members, B samples of a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, vmap

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import forward, one_sample
from modeconn_cli.engine.networks.untouched import untouched_copy

AT_ONCE, BYTES = 64, 1 << 28  # members, and what all that they need may take
CLOSE = 1e-3  # of the largest entry: gradients and outputs of float32 in another order of sums are 1e-5 off


class Stack:
    """Networks that are trained at once. `skeleton` is one of their kind, whose own tensors are not used.

    Raises InputError where the network does not stack: `reason_not_to` finds that out.
    """

    def __init__(self, skeleton: nn.Module, models: Sequence[nn.Module], weight_decay: float) -> None:
        self._skeleton = skeleton
        parameters = [dict(each.named_parameters()) for each in models]
        buffers = [dict(each.named_buffers()) for each in models]
        self.parameters = {
            name: nn.Parameter(_laid_out([own[name].detach() for own in parameters]), each.requires_grad)
            for name, each in parameters[0].items()
        }
        self.buffers = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
        self.trainable = [each for each in self.parameters.values() if each.requires_grad]
        self.optimizer_decay = weight_decay
        self._sums = torch.zeros(len(models), dtype=torch.float64, device=self.trainable[0].device)

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of each member in train mode, [M], for images [M, B, …] and labels [M, B]."""
        with one_sample.exact(images[0]):
            logits = self._forward(images, 0)
        # Over few classes torch's own kernel takes three times as long.
        each = logits.logsumexp(2) - logits.gather(2, labels[:, :, None])[:, :, 0]
        losses = each.mean(1)
        self._sums += losses.detach()
        return losses

    def logits(self, images: Tensor) -> Tensor:
        """What every member gives in eval mode, [M, B, classes], for images [B, …]."""
        return self._forward(images, None)

    @property
    def finite(self) -> Tensor:
        """Whether the losses and the weights of each member have stayed numbers, bool [M]."""
        found = torch.isfinite(self._sums)
        for each in self.parameters.values():
            found = found & torch.isfinite(each.detach()).flatten(1).all(1)
        return found.cpu()

    def state(self, number: int) -> dict[str, Tensor]:
        """The parameters and buffers of one member, by its place in the stack."""
        return {name: each[number].detach() for name, each in {**self.parameters, **self.buffers}.items()}

    def _forward(self, images: Tensor, axis: int | None) -> Tensor:
        self._skeleton.train(axis is not None)

        def one(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], given: Tensor) -> Any:
            return functional_call(self._skeleton, (dict(parameters), dict(buffers)), (given,))

        with forward.guard("the networks cannot be run at once"):
            found = vmap(one, in_dims=(0, 0, axis))(dict(self.parameters), self.buffers, images)
        if not isinstance(found, Tensor) or found.ndim != 3:
            raise InputError("the networks give no logits [samples, classes]")
        return found


def _laid_out(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one, matrices with their rows side by side.

    A linear layer multiplies by the transpose of its weight: so laid out, that is the plain product, and the gradient
    comes in the order of the weight and need not be copied, a sixth of a step of small networks.
    """
    return (
        torch.stack([each.mT for each in tensors]).mT if tensors[0].ndim == 2 else torch.stack(list(tensors))
    )


OTHERWISE = "at once they give other values than each alone"


def reason_not_to(models: Sequence[nn.Module], images: Tensor, labels: Tensor) -> str:
    """Why networks of this kind cannot be trained at once; empty where they can.

    Two or more of them, on batches images [M, B, …] and labels [M, B], each alone and then at once: gradients, buffers
    and outputs must agree. Raises InputError where a network alone fails.
    """
    why = _reason(models, images, labels)
    if why == OTHERWISE:  # which rounding alone may do in a deep network: in float64 it does not
        with contextlib.suppress(InputError):
            why = _reason([untouched_copy(each).double() for each in models], images.double(), labels)
    return why


def _reason(models: Sequence[nn.Module], images: Tensor, labels: Tensor) -> str:
    try:
        together = Stack(models[0], models, 0.0)
    except RuntimeError as error:  # no two are of one shape
        return _said(error)
    alone = [
        _alone(model, own, truth, images[0]) for model, own, truth in zip(models, images, labels, strict=True)
    ]
    try:
        at_once = _at_once(together, images, labels)
    except (InputError, RuntimeError) as error:
        return _said(error)
    for k, found in enumerate(alone):
        for ours, theirs in zip(at_once, found, strict=True):
            if not _agree([None if each is None else each[k] for each in ours], theirs):
                return OTHERWISE
    return ""


def _said(error: Exception) -> str:
    """What torch says, as far as it is about the network."""
    text = str(error)
    return (
        "they draw random numbers, as dropout does"
        if "randomness" in text
        else text.splitlines()[0].split(". ")[0]
    )


Found = tuple[list[Tensor | None], list[Tensor | None]]  # gradients; buffers and outputs


def _at_once(stack: Stack, images: Tensor, labels: Tensor) -> Found:
    stack.losses(images, labels).sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        outputs = stack.logits(images[0])
    return [each.grad for each in stack.trainable], [*stack.buffers.values(), outputs]


def _alone(model: nn.Module, images: Tensor, labels: Tensor, others: Tensor) -> Found:
    with one_sample.exact(images):
        logits = forward.logits(model.train(), images)
    with forward.guard("the network's backward fails"):
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        outputs = forward.logits(model.eval(), others)
    gradients = [each.grad for each in model.parameters() if each.requires_grad]
    model.zero_grad()
    return gradients, [*model.buffers(), outputs]


def _agree(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> bool:
    """Whether no entry differs by more than a thousandth of the largest of all."""
    if any((a is None) != (b is None) for a, b in zip(ours, theirs, strict=True)):
        return False
    pairs = [
        (a.double(), b.double()) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None
    ]
    scale = max((float(b.abs().max()) for _, b in pairs if b.numel()), default=0.0)
    return all(bool(((a - b).abs() <= CLOSE * scale).all()) for a, b in pairs)


def at_once(model: nn.Module, images: Tensor, states: int) -> int:
    """How many such networks are trained at once, on batches [B, …] with so many states of the optimizer per weight.

    As many as BYTES hold, with their gradients and what their backward pass keeps, and at most AT_ONCE.
    """
    weights = sum(each.nbytes for each in model.parameters())
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor), one_sample.exact(images):
        forward.logits(model.train(), images)
    each = weights * (2 + states) + images.nbytes + kept
    return max(1, min(AT_ONCE, BYTES // max(each, 1)))
