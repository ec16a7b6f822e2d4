"""Linear feature connectivity: are the features on a straight line those of the ends, interpolated?

cos(f_l(w_α), (1 − α) f_l(w_0) + α f_l(w_1)) of every sample and layer, signed. Source: Zhou et al. 2023
(arXiv:2307.08286). Shapes: N samples, T positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.activations.features import Features, State, features
from modeconn_cli.engine.paths.evaluate import AtPosition, visit
from modeconn_cli.engine.paths.opened import OpenedPath

LOG = "features-{}.jsonl"  # as `evaluate.LOG`
CHUNK = 1 << 22  # features that are taken in float64 at a time: 32 MB


@dataclass(frozen=True)
class SiteConnectivity:
    """The features of one layer: `site` is pre for what the layer gives, post for what a nonlinearity gives.

    `behind` is the layer whose output a nonlinearity takes, empty where there is none. Lists are over α, [T], and means
    over held-out images; a sample whose features, or whose interpolated features, are all zero has no direction and is
    left out (`zero` counts these), and where every sample is there is None.
    `cosine` and `coefficient` ⟨a, b⟩/‖b‖² are of a = f(w_α) and b = (1 − α) f(w_0) + α f(w_1); `baseline` is the cosine
    of f(w_0) and f(w_1), which says how near they are already.
    """

    layer: str
    site: str
    operation: str
    behind: str
    cosine: list[float | None]
    coefficient: list[float | None]
    zero: list[int]
    baseline: float | None

    @property
    def least(self) -> int | None:
        """Where the cosine is least, as a place in the lists."""
        known = [(value, k) for k, value in enumerate(self.cosine) if value is not None]
        return min(known)[1] if known else None


@dataclass(frozen=True)
class FeaturesAt(AtPosition):
    """All layers at one position."""

    cosine: list[float | None]
    coefficient: list[float | None]
    zero: list[int]
    baseline: list[float | None]


def connectivity(
    opened: OpenedPath, ts: Sequence[float], runtime: Runtime, log: Path | None
) -> list[SiteConnectivity]:
    """The features of every layer at every t of a straight line, on held-out images; three passes over them each.

    Kept in `log` as positions are. Empty, with a note, for a network of which nothing is seen.
    """
    samples, size = opened.subject.data.held_out, opened.policy.batch_size
    network = opened.network()
    with contextlib.closing(network):
        try:
            seen = features(opened.subject.model, next(iter(samples.batches(2))).images, runtime.note)
        except InputError as error:
            runtime.note(f"features are left out: {error.message}")
            return []
        ends = list[State]()

        def at(t: float) -> FeaturesAt:
            if not ends:
                for end in (0.0, 1.0):
                    network.move_to(end)
                    ends.append(network.state)
            network.move_to(t)
            sums, states = [_Sums() for _ in seen.layers], (*ends, network.state)
            for batch in samples.batches(size):
                for each, (first, last, here) in zip(sums, seen(states, batch.images), strict=True):
                    each.add(first, last, here, t)
            columns = zip(*(each.means() for each in sums), strict=True)
            cosine, coefficient, zero, baseline = map(list, columns)
            return FeaturesAt(t, cosine, coefficient, zero, baseline)

        found = visit(FeaturesAt, ts, at, runtime, log)
    return _by_site(seen, found)


def _by_site(seen: Features, found: Sequence[FeaturesAt]) -> list[SiteConnectivity]:
    return [
        SiteConnectivity(
            layer.name,
            layer.kind,
            layer.operation,
            layer.behind,
            [each.cosine[k] for each in found],
            [each.coefficient[k] for each in found],
            [each.zero[k] for each in found],
            found[0].baseline[k],
        )
        for k, layer in enumerate(seen.layers)
    ]


def _real(values: Tensor) -> Tensor:
    """Float64; of complex features real and imaginary parts."""
    return (torch.view_as_real(values).flatten(1) if values.is_complex() else values).double()


class _Sums:
    """Sums over samples at one layer, in float64."""

    def __init__(self) -> None:
        self._cosine, self._coefficient, self._baseline = _Mean(), _Mean(), _Mean()

    def add(self, first: Tensor, last: Tensor, here: Tensor, t: float) -> None:
        """Further samples, [N, features] under the weights of the ends and of the line at t."""
        size = max(1, CHUNK // max(here.shape[1], 1))
        for part in zip(*(torch.split(each, size) for each in (first, last, here)), strict=True):
            one, other, value = map(_real, part)
            self._add(one, other, value, t)

    def _add(self, first: Tensor, last: Tensor, here: Tensor, t: float) -> None:
        between = torch.lerp(first, last, t)
        inner, square = (here * between).sum(1), between.square().sum(1)
        self._cosine.add(*_cosine(here, between))
        self._coefficient.add(inner / square, square == 0)
        self._baseline.add(*_cosine(first, last))

    def means(self) -> tuple[float | None, float | None, int, float | None]:
        """Cosine, coefficient, samples without a cosine, baseline."""
        return self._cosine.mean, self._coefficient.mean, self._cosine.absent, self._baseline.mean


def _cosine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine of each row, and where there is none."""
    norms = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / norms, norms == 0


class _Mean:
    """The mean of what there is; sums stay on the device until they are read."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._absent = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor, absent: Tensor) -> None:
        self._sum = torch.where(absent, 0.0, values).sum() + self._sum.to(values.device)
        self._absent = absent.sum() + self._absent.to(values.device)
        self._count += len(absent)

    @property
    def absent(self) -> int:
        return int(self._absent)

    @property
    def mean(self) -> float | None:
        count = self._count - self.absent
        return float(self._sum) / count if count else None
