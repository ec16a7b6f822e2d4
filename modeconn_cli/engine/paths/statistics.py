"""The statistics that batch norm has at a position of a path, where the weights are blends of several networks'."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.paths.carrier import Carrier, Ends
from modeconn_cli.engine.paths.path import WeightPath
from modeconn_cli.engine.settings.shared import BatchNorm
from modeconn_cli.engine.training import batch_norms, recompute_statistics


@dataclass(frozen=True)
class StatisticsPolicy:
    """Where the statistics come from.

    `recompute`: from the training images under the weights there, in batches of `batch_size` and an order that
    follows from `seed`; `samples` says how many images, None all. `keep`: endpoint 0's. `lerp`: interpolated between
    those of the endpoints. `none`: mean 0 and variance 1.
    """

    bn: BatchNorm
    batch_size: int
    seed: int
    samples: int | None = None


@dataclass(frozen=True)
class StatisticsUsed:
    """What a record says of the statistics."""

    policy: str


@dataclass(frozen=True)
class StatisticsRecomputed(StatisticsUsed):
    """What a record says of statistics that were computed from `samples` training images."""

    samples: int
    batch_size: int
    order_seed: int


class NetworkOnPath:
    """A network that can be moved along a path, together with the statistics that the policy asks for.

    `buffers` are endpoint 0's and, where they are known, endpoint 1's; `fit` the training images, which only
    recomputed statistics need.
    """

    def __init__(
        self,
        model: nn.Module,
        path: WeightPath,
        buffers: Ends,
        policy: StatisticsPolicy,
        fit: Samples | None,
    ) -> None:
        self.model = model
        self.passes = 0  # forward passes over batches that statistics have cost
        self.carrier = Carrier(model, path, buffers)
        self._batch_norms = batch_norms(model)
        inside = {id(buffer) for layer in self._batch_norms for buffer in layer.buffers()}
        self._statistics = {name for name, buffer in model.named_buffers() if id(buffer) in inside}
        self._policy, self._fit = policy, fit
        if fit is not None and policy.samples is not None and policy.samples < len(fit):
            chosen = keyed.permutation(policy.seed, "statistics subset", len(fit))[: policy.samples]
            self._fit = fit.take(chosen.sort().values.to(fit.ids.device))

    def move_to(self, t: float) -> None:
        """Put w(t) into the network, and its statistics."""
        self.carrier.move_to(t)
        policy = self._policy
        if not self._batch_norms:
            return
        if policy.bn == "recompute":
            assert self._fit is not None
            self.passes += recompute_statistics(self.model, self._fit, policy.batch_size, policy.seed)
        elif policy.bn == "none":
            for layer in self._batch_norms:
                layer.reset_running_stats()
        else:
            self.carrier.put_buffers(t if policy.bn == "lerp" else 0.0, self._statistics)

    def move_to_end(self, end: int) -> None:
        """Put endpoint `end` into the network as its own file holds it: weights and buffers."""
        self.carrier.move_to(float(end))
        self.carrier.put_buffers(float(end))

    def statistics(self) -> StatisticsUsed:
        """What a record says of the statistics."""
        policy = self._policy
        if not self._batch_norms:
            return StatisticsUsed("no batch norm")
        if policy.bn != "recompute":
            return StatisticsUsed(policy.bn)
        assert self._fit is not None
        return StatisticsRecomputed(policy.bn, len(self._fit), policy.batch_size, policy.seed)
