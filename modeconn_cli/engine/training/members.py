"""Many networks of one architecture, each with seeds of its own and on a random share of the samples.

All that is random about a member depends on the seed of the study and on its number: it is the same network in whatever
block, process or company it is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.samples import spans
from modeconn_cli.engine.errors import CONTINUE, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import forward
from modeconn_cli.engine.training.loop import Diverged, Recipe, Trainable, fit, make_optimizer
from modeconn_cli.engine.training.network import NetworkProblem


@dataclass(frozen=True)
class Member:
    """One network: `seed` gives its first weights and its random numbers, `data_seed` its order and augmentation.

    `rows` are those of the split that it is trained on, int64 [n], ascending.
    """

    number: int
    seed: int
    data_seed: int
    rows: Tensor

    def recipe(self, common: Recipe) -> Recipe:
        """How this network alone is trained: `fit` on `samples.take(rows)` gives it."""
        return replace(common, seed=self.seed, data_seed=self.data_seed)


def size_of(count: int, share: float) -> int:
    """How many of `count` samples a member is trained on: ⌊share · count⌋, of the decimals as they are written.

    >>> size_of(100, 0.29)  # which no float is: 0.29 * 100 = 28.999…
    29
    """
    return math.floor(count * Fraction(str(share)))


def members(
    numbers: Iterable[int], ids: Tensor, share: float, seed: int, data_seed: int | None = None
) -> list[Member]:
    """The members of these numbers, on the samples `ids` [N] of a split; without a `data_seed` the seed gives it."""
    size = size_of(len(ids), share)
    out = []
    for number in numbers:
        own = keyed.number(seed, "member", number)
        order = own if data_seed is None else keyed.number(data_seed, "member", number)
        drawn = keyed.bits(seed, "samples of a member", ids.cpu(), draw=number)[:, 0]
        rows = drawn.argsort(stable=True)[:size].sort().values
        out.append(Member(number, own, order, rows))
    return out


def batches(
    samples: Samples, of: Sequence[Member], batch_size: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch, [M, B, …] and labels [M, B]: those that each member would see alone."""
    count = len(of[0].rows)
    order = keyed.permutations([each.data_seed for each in of], "order", count, draw=epoch)
    rows = torch.stack([each.rows for each in of]).gather(1, order).to(samples.device)
    if samples.transform.augmentation:
        streams = [
            samples.batches(batch_size, order=own, augment=(each.data_seed, epoch))
            for each, own in zip(of, rows, strict=True)
        ]
        for found in zip(*streams, strict=True):
            yield torch.stack([each.images for each in found]), torch.stack([each.labels for each in found])
        return
    parts = spans(count, batch_size, merge_single=True)
    for batch in samples.read([rows[:, begin:end].flatten() for begin, end in parts]):
        shape = len(of), -1
        yield batch.images.view(*shape, *batch.images.shape[1:]), batch.labels.view(shape)


class Trained(Protocol):
    """Networks that have been trained."""

    @property
    def finite(self) -> Tensor:
        """Whether the losses and the weights of each have stayed numbers, bool [M]."""

    def logits(self, images: Tensor) -> Tensor:
        """What they give in eval mode, [M, B, classes], for images [B, …]."""


class Together(Trainable, Protocol):
    """Networks that are trained at once."""

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of each in train mode, [M], for images [M, B, …] and labels [M, B]."""


def train(
    networks: Together, of: Sequence[Member], samples: Samples, common: Recipe, runtime: Runtime
) -> None:
    """Train members at once, step by step as each would be trained alone. Raises Stopped after a signal."""
    optimizer = make_optimizer(networks, common)
    per_epoch = len(spans(len(of[0].rows), common.batch_size, merge_single=True))
    number = 0
    for epoch in range(common.epochs):
        for group in optimizer.param_groups:
            group["lr"] = common.lr_at(epoch + 1)
        for images, labels in batches(samples, of, common.batch_size, epoch):
            if runtime.stopping():
                raise stopped(of)
            optimizer.zero_grad()
            networks.losses(images, labels).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            number += 1
            runtime.progress(number, common.epochs * per_epoch, epoch=epoch + 1)


def stopped(of: Sequence[Member]) -> Stopped:
    return Stopped(f"stopped while members {of[0].number} to {of[-1].number} were trained", CONTINUE)


class Alone:
    """One network, trained by the one loop."""

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self._problem, self._finite = NetworkProblem(model, weight_decay), True

    def train(self, member: Member, samples: Samples, common: Recipe, runtime: Runtime) -> None:
        """Raises Stopped after a signal."""
        optimizer, at = make_optimizer(self._problem, common), 0
        try:
            for position in fit(
                self._problem, optimizer, samples.take(member.rows), member.recipe(common), runtime
            ):
                at = position.epoch
        except Diverged:
            self._finite = False
            return
        if at < common.epochs:
            raise stopped([member])

    @property
    def finite(self) -> Tensor:
        kept = all(bool(torch.isfinite(each).all()) for each in self._problem.model.parameters())
        return torch.tensor([self._finite and kept])

    def logits(self, images: Tensor) -> Tensor:
        return forward.logits(self._problem.model.eval(), images)[None]


@torch.no_grad()
def correct(networks: Trained, samples: Samples, batch_size: int) -> Tensor:
    """Which of the samples each network gives the right label, bool [M, N] on the CPU, un-augmented, in id order."""
    found = [networks.logits(batch.images).argmax(2) == batch.labels for batch in samples.batches(batch_size)]
    return torch.cat(found, dim=1).cpu()
