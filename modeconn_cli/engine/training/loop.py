"""The only training loop: endpoints and curves differ in what is trainable and in what the loss is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Batch, Samples
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import forward, one_sample
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.results.failpoints import failpoint
from modeconn_cli.engine.settings.train import OptimizerSettings
from modeconn_cli.engine.training.evaluation import among
from modeconn_cli.engine.training.halves import Halves
from modeconn_cli.engine.training.schedule import SCHEDULES
from modeconn_cli.engine.training.tasks import Curriculum, Tasks

CHECK_EVERY = {"cpu": 1}  # steps between two looks at the loss; a look makes a GPU wait
CHECK_ELSEWHERE = 32


class Diverged(InputError):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class Recipe:
    """How something is trained."""

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    optimizer: Literal["sgd", "adam", "adamw"]
    schedule: str
    batch_size: int
    seed: int
    data_seed: int
    horizon: int | None = None  # epochs of the schedule, where the run is only a part of it
    period: int | None = None  # epochs after which the schedule begins again

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        if self.period is not None:
            return self.lr * SCHEDULES[self.schedule]((epoch - 1) % self.period + 1, self.period)
        return self.lr * SCHEDULES[self.schedule](epoch, self.horizon or self.epochs)


def recipe_of(
    settings: OptimizerSettings,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    horizon: int | None = None,
    period: int | None = None,
) -> Recipe:
    """The recipe that a command's settings give."""
    return Recipe(
        epochs=epochs,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.wd,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        batch_size=batch_size,
        seed=seed,
        data_seed=seed if settings.data_seed is None else settings.data_seed,
        horizon=horizon,
        period=period,
    )


class Trainable(Protocol):
    """What an optimizer changes."""

    trainable: list[nn.Parameter]
    optimizer_decay: float  # weight decay that the optimizer applies


class Problem(Trainable, Protocol):
    """What is trained: a network, or the free points of a path between two."""

    model: nn.Module
    draws: int  # weights that a step is taken from, one after the other

    def place(self, step: int) -> None:
        """Put the weights of this step into the model and make its gradients ready; of several `draws` each counts."""

    def collect(self) -> Tensor | float:
        """Turn the model's gradients into those of `trainable`; returns the loss's part beside the data's."""

    def settle(self) -> None:
        """Keep `trainable` where it belongs after the optimizer's step."""

    def content(self) -> dict[str, Any]:
        """The checkpoint entries that hold the weights."""

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take the weights from a checkpoint's entries."""


class Watcher(Protocol):
    """Sees every step of a run."""

    def begin(self, epoch: int, batch: int, state: Mapping[str, Tensor]) -> None:
        """The run stands before a batch; `state` is what the watcher knew there of the epoch in progress."""

    def step(self, epoch: int, number: int, batch: Batch, done: Step) -> None:
        """Batch `number` of the epoch after `epoch` completed ones has been trained on."""

    def state(self) -> dict[str, Tensor]:
        """What it knows of the epoch in progress."""

    def end(self, epoch: int) -> None:
        """`epoch` epochs are completed."""

    def close(self) -> None:
        """The run is over, or has been stopped."""


@dataclass
class StepPosition:
    """Where a run stands: `epoch` epochs are completed, `batch` batches of the next one, with their sums.

    At the end of an epoch the sums are still its own. Losses are per sample, the accuracy in percent, of the batches
    as they were trained on.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    extra_sum: float = 0.0  # of the regulariser
    correct: int = 0
    seen: int = 0

    @property
    def loss(self) -> float:
        """Data loss plus regulariser."""
        return (self.loss_sum + self.extra_sum) / max(self.seen, 1)

    @property
    def nll(self) -> float:
        return self.loss_sum / max(self.seen, 1)

    @property
    def accuracy(self) -> float:
        return 100 * self.correct / max(self.seen, 1)


def make_optimizer(problem: Trainable, recipe: Recipe) -> Optimizer:
    """The optimizer over what is trainable; one fused pass over memory per step."""
    fused = all(p.device.type in ("cpu", "cuda") and not p.is_complex() for p in problem.trainable)
    decay = problem.optimizer_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            problem.trainable, lr=recipe.lr, momentum=recipe.momentum, weight_decay=decay, fused=fused
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(problem.trainable, lr=recipe.lr, weight_decay=decay, fused=fused)


def fit(
    problem: Problem,
    optimizer: Optimizer,
    samples: Samples,
    recipe: Recipe,
    runtime: Runtime,
    position: StepPosition | None = None,
    plan: Tasks | Halves | None = None,
    watchers: Sequence[Watcher] = (),
) -> Iterator[StepPosition]:
    """Train epoch by epoch; yields where the run stands at the end of each, and where a signal ends it in between.

    With tasks an epoch goes over the samples of the classes seen, and its loss is over these classes alone; with halves
    over those of one.

    Every random choice is keyed by the seeds, the epoch and the step, so that a run continued from its
    position gives the same bits as one that was never interrupted. Raises Diverged where the loss stops being
    finite.
    """
    at, curriculum = replace(position or StepPosition()), Curriculum(samples, plan)
    while at.epoch < recipe.epochs:
        lr = recipe.lr_at(at.epoch + 1)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if not _epoch(problem, optimizer, curriculum, recipe, runtime, at, lr, watchers):
            yield at
            return
        at.epoch, at.batch = at.epoch + 1, 0
        yield at
        if runtime.stopping():
            return
        at = StepPosition(at.epoch)


def _epoch(
    problem: Problem,
    optimizer: Optimizer,
    curriculum: Curriculum,
    recipe: Recipe,
    runtime: Runtime,
    at: StepPosition,
    lr: float,
    watchers: Sequence[Watcher],
) -> bool:
    """The batches of one epoch from `at.batch` on; False where a signal ended it early."""
    samples, device = curriculum.samples, curriculum.samples.device
    per_epoch = curriculum.steps(at.epoch, recipe.batch_size)
    before = curriculum.steps_before(at.epoch, recipe.batch_size)
    every_step = curriculum.steps_before(recipe.epochs, recipe.batch_size)
    rows, classes = curriculum.rows(at.epoch), curriculum.classes(at.epoch)
    order = keyed.permutation(recipe.data_seed, "order", curriculum.size(at.epoch), draw=at.epoch)
    order = order if rows is None else rows[order]
    every = CHECK_EVERY.get(device.type, CHECK_ELSEWHERE)
    sums = torch.tensor([at.loss_sum, at.extra_sum, float(at.correct)], dtype=torch.float64, device=device)
    problem.model.train()
    batches = samples.batches(
        recipe.batch_size, order=order, augment=(recipe.data_seed, at.epoch), first=at.batch
    )
    for batch in batches:
        number = before + at.batch
        done = step(problem, optimizer, batch, number, recipe.seed, classes)
        sums[0] += done.loss.double() * len(batch)
        sums[1] += done.extra * len(batch)
        sums[2] += done.correct()
        for watcher in watchers:
            watcher.step(at.epoch, at.batch, batch, done)
        at.batch += 1
        at.seen += len(batch)
        if at.batch % every == 0 or at.batch == per_epoch:
            _check_finite(sums, number, lr)
            runtime.progress(number + 1, every_step, epoch=at.epoch + 1)
        failpoint("train.after_step")
        if runtime.stopping() and at.batch < per_epoch:
            break
    at.loss_sum, at.extra_sum, hits = sums.tolist()
    at.correct = int(hits)
    return at.batch >= per_epoch


@dataclass(frozen=True)
class Step:
    """One step of training: the batch's mean loss, the loss's part beside the data's, and what it was taken from."""

    loss: Tensor
    extra: Tensor | float
    logits: Tensor  # [N, classes seen]
    labels: Tensor  # [N], among them

    def correct(self) -> Tensor:
        """How many answers were."""
        return (self.logits.argmax(1) == self.labels).sum()

    def losses(self) -> Tensor:
        """Cross-entropy of every sample, as trained: augmented, in train mode, before the step. [N]"""
        return cross_entropy(self.logits, self.labels)


def step(
    problem: Problem,
    optimizer: Optimizer,
    batch: Batch,
    number: int,
    seed: int,
    classes: Tensor | None = None,
) -> Step:
    """One step of training; with `classes`, ascending, the loss is over these alone.

    `number` counts the steps of the run from 0. With the seed it gives dropout and the position on a path.
    """
    torch.manual_seed(keyed.number(seed, "step", number))
    taken = [
        _draw(problem, batch, draw, classes)
        for draw in range(number * problem.draws, (number + 1) * problem.draws)
    ]
    optimizer.step()
    problem.settle()
    if len(taken) == 1:
        return taken[0]
    loss, extra = (sum(getattr(each, name) for each in taken) / len(taken) for name in ("loss", "extra"))
    return replace(taken[0], loss=loss, extra=extra)


def _draw(problem: Problem, batch: Batch, number: int, classes: Tensor | None) -> Step:
    """The loss and the gradients at the weights of one draw; these count from 0 over all steps."""
    problem.place(number)
    with one_sample.exact(batch.images):
        outputs = forward.logits(problem.model, batch.images)
    logits, labels = among(outputs, batch.labels, classes)
    loss = F.cross_entropy(logits, labels)
    with forward.guard("the network's backward fails"):
        loss.backward()  # type: ignore[no-untyped-call]
    return Step(loss.detach(), problem.collect(), logits.detach(), labels)


def _check_finite(sums: Tensor, number: int, lr: float) -> None:
    if not bool(torch.isfinite(sums).all()):
        raise Diverged(
            f"the training loss became NaN or infinite by step {number + 1} at learning rate {lr:g}",
            "use a smaller --lr",
        )
