"""The only evaluation loop, and the statistics of batch norm that belong to the weights being evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.networks.forward import logits as logits_of


@dataclass(frozen=True)
class Score:
    """Sums over samples; divided once, when read."""

    loss_sum: float
    correct: int
    count: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.count

    @property
    def error(self) -> float:
        """Percent."""
        return 100 - self.accuracy


def among(logits: Tensor, labels: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits of these classes alone, [N, classes], and the labels' places among them; all for None.

    `classes` int64, ascending; every label must be one of them.
    """
    if classes is None:
        return logits, labels
    return logits[:, classes], torch.searchsorted(classes, labels)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    samples: Samples,
    batch_size: int,
    classes: Tensor | None = None,
    look: Callable[[Tensor], None] | None = None,
) -> Score:
    """Cross-entropy and correct answers over a split, un-augmented, in eval mode and id order.

    With `classes` both are over these classes alone; every sample must be of one of them. `look` is shown the logits
    of every batch.
    """
    model.eval()
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    for batch in samples.batches(batch_size):
        logits, labels = among(logits_of(model, batch.images), batch.labels, classes)
        if look is not None:
            look(logits)
        losses.append(cross_entropy(logits, labels).sum())
        hits.append((logits.argmax(1) == labels).sum())
    return Score(float(torch.stack(losses).sum()), int(torch.stack(hits).sum()), len(samples))


def evaluate_seen(
    model: nn.Module, samples: Samples, classes: Tensor | None, batch_size: int
) -> Score | None:
    """Evaluate over the images of some classes and their logits alone, or of all; None where there is no image."""
    part = samples if classes is None else only(samples, of_classes(samples, classes))
    return evaluate(model, part, batch_size, classes) if len(part) else None


def of_classes(samples: Samples, classes: Tensor) -> Tensor:
    """The rows of the samples of some classes."""
    return torch.isin(samples.labels, classes.to(samples.device)).nonzero()[:, 0]


def only(samples: Samples, rows: Tensor) -> Samples:
    """The samples of some rows."""
    return samples if len(rows) == len(samples) else samples.take(rows)


@torch.no_grad()
def predict(model: nn.Module, samples: Samples, batch_size: int) -> Tensor:
    """Logits [N, classes] over a split, in eval mode and id order."""
    model.eval()
    return torch.cat([logits_of(model, batch.images) for batch in samples.batches(batch_size)])


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers whose running statistics are not on a path."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def recompute_statistics(model: nn.Module, samples: Samples, batch_size: int, seed: int) -> int:
    """Give every batch norm the statistics of the training data under the model's present weights.

    The running mean is the exact mean; the running variance is the size-weighted mean of the batch variances
    (Garipov et al. 2018). A layer that is called several times in a pass has one mean over all its calls. Un-augmented
    data in one seeded shuffled order, dropout off. Returns the number of forward passes over batches (0 without batch
    norm).
    """
    layers = batch_norms(model)
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    values: dict[
        nn.Module, int
    ] = {}  # per channel, so far; copies of the network that are tried have their own

    def weigh(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before each call: its share of all values that the layer has seen."""
        assert isinstance(layer, _BatchNorm)
        size = inputs[0].numel() // max(layer.num_features, 1)
        values[layer] = values.get(layer, 0) + size
        layer.momentum = size / max(values[layer], 1)

    hooks = [layer.register_forward_pre_hook(weigh) for layer in layers]
    passes = 0
    order = keyed.permutation(seed, "statistics", len(samples))
    for batch in samples.batches(batch_size, order=order):
        forward(model, batch.images)
        passes += 1
    for layer, momentum, hook in zip(layers, momenta, hooks, strict=True):
        layer.momentum = momentum
        hook.remove()
    model.eval()
    return passes
