"""The statistics that a network has at a position of a path, where its weights are blends of several networks'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.activations.features import State
from modeconn_cli.engine.paths.carrier import Carrier, Ends, Way, statistics_of
from modeconn_cli.engine.paths.repair import Repair
from modeconn_cli.engine.settings.shared import BatchNorm
from modeconn_cli.engine.training import batch_norms, recompute_statistics


@dataclass(frozen=True)
class StatisticsPolicy:
    """Where the statistics come from.

    `recompute`: from the training images under the weights there, in batches of `batch_size` and an order that
    follows from `seed`; `samples` says how many images, None all. `keep`: endpoint 0's. `lerp`: interpolated between
    those of the endpoints. `none`: mean 0 and variance 1. `repair`: of every layer, with batch norm or without, between
    the endpoints' (`repair`), measured on the same images as `recompute`.
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


@dataclass(frozen=True)
class StatisticsRepaired(StatisticsRecomputed):
    """What a record says of repaired layers: how many, and how many of their channels were constant and only shifted,
    the most in one blend.
    """

    layers: int
    constant_channels: int


class NetworkOnPath:
    """A network that can be moved along a path, together with the statistics that the policy asks for.

    `buffers` are endpoint 0's and, where they are known, endpoint 1's; `fit` the training images, which only
    recomputed and repaired statistics need. `close` takes the hooks of `repair` out of the network.
    """

    def __init__(
        self,
        model: nn.Module,
        path: Way,
        buffers: Ends,
        policy: StatisticsPolicy,
        fit: Samples | None,
    ) -> None:
        self.model = model
        self.passes = 0  # forward passes over batches that statistics have cost
        self.constant = 0  # channels that `repair` has only shifted, where the network is
        self.carrier = Carrier(model, path, buffers)
        self._batch_norms = batch_norms(model)
        self._statistics = statistics_of(model)
        self._policy, self._fit = policy, fit
        self._made: Repair | None = None
        if fit is not None and policy.samples is not None and policy.samples < len(fit):
            chosen = keyed.permutation(policy.seed, "statistics subset", len(fit))[: policy.samples]
            self._fit = fit.take(chosen.sort().values.to(fit.ids.device))

    def move_to(self, t: float) -> None:
        """Put w(t) into the network, and its statistics."""
        self._put(t, lambda: self.carrier.move_to(t))

    def move_to_average(self, ts: Sequence[float]) -> None:
        """Put the mean of w(t) over some positions into the network, and statistics as at the mean of t."""
        self._put(float(np.mean(ts)), lambda: self.carrier.move_to_average(ts))

    def _put(self, t: float, move: Callable[[], object]) -> None:
        """Put weights into the network, and the statistics that the policy has for `t`."""
        self.close()
        move()
        policy = self._policy
        if policy.bn == "repair":
            self._repair(t, move)
        elif not self._batch_norms:
            return
        elif policy.bn == "recompute":
            assert self._fit is not None
            self.passes += recompute_statistics(self.model, self._fit, policy.batch_size, policy.seed)
        elif policy.bn == "none":
            for layer in self._batch_norms:
                layer.reset_running_stats()
        else:
            self.carrier.put_buffers(t if policy.bn == "lerp" else 0.0, self._statistics)

    def move_to_end(self, t: float) -> None:
        """Put the endpoint, or the network of a chain, at t into the network as its own file holds it: weights and
        buffers.
        """
        self.close()
        self.carrier.move_to(t)
        self.carrier.put_buffers(t)

    def close(self) -> None:
        """Leave nothing in the network but weights and buffers."""
        self.constant = 0
        if self._made is not None:
            self._made.undo()

    @property
    def _repaired(self) -> Repair:
        """Made where it is first needed: the network is traced for it."""
        if self._made is None:
            assert self._fit is not None
            self._made = Repair(self.model, self._fit, self._policy.batch_size, self._policy.seed)
        return self._made

    def _repair(self, t: float, move: Callable[[], object]) -> None:
        """Repair the network as `move` puts it there. The ends are as their own files hold them."""
        if t not in (0.0, 1.0):
            while len(self._repaired.members) < 2:
                end = float(len(self._repaired.members))
                self.carrier.move_to(end)
                self._put_statistics(end)
                self._repaired.take_member()
            move()
        self._put_statistics(t)
        if t not in (0.0, 1.0):
            self._repaired.apply((1 - t, t))
            self.passes, self.constant = self._repaired.passes, self._repaired.constant

    def _put_statistics(self, t: float) -> None:
        if self._batch_norms:
            self.carrier.put_buffers(t, self._statistics)

    @property
    def state(self) -> State:
        """What the network computes with where it is; copies, of which tied tensors are one."""
        tensors = weights.tensors_of(self.model)
        copies = {id(tensor): tensor.detach().clone() for tensor in tensors.values()}
        corrections = {} if self._made is None else dict(self._made.corrections)
        return State({name: copies[id(tensor)] for name, tensor in tensors.items()}, corrections)

    def check_written(self, t: float) -> None:
        """Raises InputError, naming them, for layers whose repair at t no parameter of theirs can hold."""
        if self._policy.bn == "repair" and t not in (0.0, 1.0):
            self._repaired.check_written(
                "mcx curve eval and mcx lmc interpolate measure the repaired network without writing it"
            )

    def statistics(self, constant: int) -> StatisticsUsed:
        """What a record says of the statistics; `constant`: the most channels that were constant at a position."""
        policy = self._policy
        if policy.bn == "repair":
            assert self._fit is not None
            layers = len(self._repaired.places)
            return StatisticsRepaired(
                policy.bn, len(self._fit), policy.batch_size, policy.seed, layers, constant
            )
        if not self._batch_norms:
            return StatisticsUsed("no batch norm")
        if policy.bn != "recompute":
            return StatisticsUsed(policy.bn)
        assert self._fit is not None
        return StatisticsRecomputed(policy.bn, len(self._fit), policy.batch_size, policy.seed)
