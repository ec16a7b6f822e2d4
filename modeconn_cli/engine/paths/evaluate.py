"""Loss and error along a path: the one evaluation of curves and straight lines.

Names of series: `tr_` on the images trained on (un-augmented), `te_` on held-out images; `nll` is the cross-entropy
in nats, `loss` adds ½·wd·‖w(t)‖², `err` and `acc` are percent. Shapes: T positions.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from modeconn_cli.engine import training
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import CONTINUE, Stopped
from modeconn_cli.engine.machine.ranks import Group
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths.answers import Keeping
from modeconn_cli.engine.paths.barriers import Barriers, all_barriers
from modeconn_cli.engine.paths.opened import OpenedPath
from modeconn_cli.engine.paths.sharpness import Asked, Sharpness
from modeconn_cli.engine.paths.statistics import NetworkOnPath, StatisticsUsed
from modeconn_cli.engine.results import logs
from modeconn_cli.engine.results.failpoints import failpoint

SERIES = ("tr_loss", "tr_nll", "tr_err", "te_loss", "te_nll", "te_err")
_HASH = re.compile(r"([0-9a-f]{64})?")
_ASKED = re.compile(r"(top \d+, draws \d+, images \d+)?")
LOG = "positions-{}.jsonl"  # finished positions of a rank, so that a killed evaluation goes on where it was

# What the tables of barriers call the series.
_BARRIERS = {"loss_train": "tr_nll", "error_train": "tr_err", "loss_test": "te_nll", "error_test": "te_err"}


@dataclass(frozen=True)
class AtPosition:
    """What was found at one position of a path."""

    t: float

    def shown(self) -> dict[str, Any]:
        """What progress says of it."""
        return {}


P = TypeVar("P", bound=AtPosition)


@dataclass(frozen=True)
class Measurement(AtPosition):
    """The network at one position of a path, on the images trained on and on the held-out images."""

    tr_nll: float
    tr_err: float
    tr_acc: float
    te_nll: float
    te_err: float
    te_acc: float
    passes: int = 0  # forward passes over batches that its statistics have cost
    constant: int = 0  # channels that repairing them has only shifted
    answers: str = ""  # the hash of the file with what held-out images were answered, where that is kept
    sharpness: Sharpness | None = None
    sharpness_of: str = ""  # what was asked for

    def __post_init__(self) -> None:
        """Raises ValueError for a line of a log whose texts were changed."""
        if not _HASH.fullmatch(self.answers) or not _ASKED.fullmatch(self.sharpness_of):
            raise ValueError(
                f"'{self.answers[:80]}' is no hash, or '{self.sharpness_of[:80]}' nothing to ask for"
            )

    def shown(self) -> dict[str, Any]:
        return {"te_nll": self.te_nll}


def measure(
    model: nn.Module, data: Data, batch_size: int, t: float, keeping: Keeping | None = None
) -> Measurement:
    """Measure the network as it is, which lies at `t`: a pass over both splits, from which answers may be kept."""
    answers = None if keeping is None else keeping.at(t)
    look = None if answers is None else answers.look
    fit = training.evaluate(model, data.fit, batch_size)
    held_out = training.evaluate(model, data.held_out, batch_size, look=look)
    return Measurement(
        *(t, fit.loss, fit.error, fit.accuracy, held_out.loss, held_out.error, held_out.accuracy),
        answers="" if answers is None else answers.write(),
    )


@dataclass(frozen=True)
class SeriesSummary:
    """A series along a path: its ends, its extremes, its mean over t (`avg`) and over arc length (`int`)."""

    start: float
    end: float
    min: float
    max: float
    avg: float
    int: float


def summary(values: np.ndarray, steps: np.ndarray) -> SeriesSummary:
    """Summarise a series [T] over a path with these step lengths [T].

    int = Σ ½(v_{i−1} + v_i) dl_i / Σ dl (Garipov et al. 2018); where the path has no length, the mean over t.

    >>> summary(np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, 3.0])).int
    0.5
    """
    length = float(steps.sum())
    middle = 0.5 * (values[:-1] + values[1:])
    mean = float(values.mean())
    return SeriesSummary(
        start=float(values[0]),
        end=float(values[-1]),
        min=float(values.min()),
        max=float(values.max()),
        avg=mean,
        int=float((middle * steps[1:]).sum() / length) if length > 0 else mean,
    )


@dataclass(frozen=True)
class Evaluation:
    """What was measured along a path, in the order of t, and what its batch norm statistics were and have cost."""

    opened: OpenedPath
    measurements: tuple[Measurement, ...]
    statistics: StatisticsUsed
    passes: int  # forward passes over batches, at all ranks

    def arrays(self, wd: float) -> dict[str, np.ndarray]:
        """The content of `curve.npz`, with `wd` as the weight decay in the loss."""
        ts = np.array([each.t for each in self.measurements])
        steps, norms = self.opened.path.lengths(ts)
        out = {"ts": ts, "dl": steps, "l2_norm": norms}
        for name in ("nll", "err", "acc"):
            for series in (f"tr_{name}", f"te_{name}"):
                out[series] = np.array([getattr(each, series) for each in self.measurements])
        for split in ("tr", "te"):
            out[f"{split}_loss"] = out[f"{split}_nll"] + 0.5 * wd * norms**2
        for name in SERIES:
            found = summary(out[name], steps)
            out |= {f"{name}_{key}": np.array(getattr(found, key)) for key in ("min", "max", "avg", "int")}
        return out

    def end(self, number: int) -> Measurement | None:
        """An endpoint, or a network of a chain, with the statistics of its own file; None where no file holds them, as
        for foreign curves and ends that were trained. Without batch norm it is what was measured there.
        """
        opened = self.opened
        t = number / (opened.num_given - 1)
        if not opened.has_batch_norm:
            return self.measurements[round(t * (len(self.measurements) - 1))]
        if opened.foreign or number >= len(opened.buffers):
            return None
        network = opened.network()
        network.move_to_end(t)
        return measure(network.model, opened.subject.data, opened.policy.batch_size, t)


def barriers_of(arrays: Mapping[str, np.ndarray]) -> Barriers:
    """The barriers of a path's arrays: losses in nats, errors in percentage points."""
    return all_barriers(arrays["ts"], {key: arrays[name] for key, name in _BARRIERS.items()})


def barriers_of_segments(arrays: Mapping[str, np.ndarray], count: int) -> list[Barriers]:
    """The barriers of each of `count` segments of equal share in t, between the networks that it joins."""
    each = (len(arrays["ts"]) - 1) // count
    parts = [slice(k * each, (k + 1) * each + 1) for k in range(count)]
    ts = np.linspace(0, 1, each + 1)
    return [
        barriers_of({"ts": ts, **{name: arrays[name][part] for name in _BARRIERS.values()}}) for part in parts
    ]


def evaluate_path(
    opened: OpenedPath,
    ts: Sequence[float],
    runtime: Runtime,
    log: Path | None,
    pair: Mapping[str, int] | None = None,
    measured: Mapping[float, Measurement] | None = None,
    keeping: Keeping | None = None,
    sharp: Asked | None = None,
) -> Evaluation:
    """Measure the network at every t: a pass over both splits each, and what the batch norm policy asks for.

    Finished positions are kept in `log`, where `{}` in its name stands for the rank, and read back from there. The
    ranks share the positions, unless the path is the line of a `pair` of branches: then they share such pairs, and
    progress and messages say which. What was `measured` at some positions already, where another path has passed the
    same network, is taken as it is. `keeping` says which answers to held-out images are kept, `sharp` where the Hessian
    is looked at. Raises InputError where ranks see different files or data, Stopped after a signal.
    """
    data, batch_size = opened.subject.data, opened.policy.batch_size
    network = opened.network()
    if network.carrier.note:
        runtime.note(network.carrier.note, once=True)

    def measured_at(t: float) -> Measurement:
        if measured is not None and t in measured:
            return replace(measured[t], passes=0)
        found = measure_at(network, data, batch_size, t, keeping)
        if sharp is None or t not in sharp.positions:
            return found
        return replace(found, sharpness=sharp.measure(network.model), sharpness_of=sharp.identity)

    with contextlib.closing(network):
        everything = visit(Measurement, ts, measured_at, runtime, log, pair, whole=_whole(keeping, sharp))
    return Evaluation(
        opened,
        tuple(everything),
        network.statistics(max((each.constant for each in everything), default=0)),
        sum(each.passes for each in everything),
    )


def visit(
    kind: type[P],
    ts: Sequence[float],
    at: Callable[[float], P],
    runtime: Runtime,
    log: Path | None,
    pair: Mapping[str, int] | None = None,
    place: Callable[[float], Mapping[str, Any]] = lambda t: {"t": t},
    whole: Callable[[P], bool] | None = None,
) -> list[P]:
    """What `at` finds at every t, in the order of t, as `evaluate_path` keeps, shares and reports it.

    `place` is what progress calls a t that no pair has. What was kept and is not `whole`, as it lacks what is asked for
    now, is found again.
    """
    group = runtime.group if pair is None else Group()
    mine = group.share(ts)
    known, found = _kept(kind, log, runtime), list[P]()
    if whole is not None:
        known = {t: each for t, each in known.items() if t in mine and whole(each)}
    for t in mine:
        if t not in known:
            if runtime.stopping():
                raise _stopped(len(found), len(mine), pair)
            known[t] = at(t)
            if log is not None:
                logs.append_line(_of_rank(log, group.rank), json.dumps(asdict(known[t])))
        found.append(known[t])
        failpoint(f"evaluate.after_position.rank{group.rank}")
        where = place(t) if pair is None else {**pair, "alpha": t}
        runtime.progress(len(found), len(mine), **where, **known[t].shown())
    gathered = group.gather([asdict(each) for each in found])
    return sorted((logs.record(kind, row) for rows in gathered for row in rows), key=lambda each: each.t)


def _whole(keeping: Keeping | None, sharp: Asked | None = None) -> Callable[[Measurement], bool]:
    """Whether what is known of a position has all that is asked for there."""

    def whole(found: Measurement) -> bool:
        kept = keeping is None or keeping.holds(found.t, found.answers)
        wanted = sharp is not None and found.t in sharp.positions
        return kept and (sharp is None or not wanted or found.sharpness_of == sharp.identity)

    return whole


def measure_at(
    network: NetworkOnPath, data: Data, batch_size: int, t: float, keeping: Keeping | None = None
) -> Measurement:
    """Move the network to t and measure it, with what its statistics have cost."""
    before = network.passes
    network.move_to(t)
    found = measure(network.model, data, batch_size, t, keeping)
    return replace(found, passes=network.passes - before, constant=network.constant)


def middle(ts: Sequence[float]) -> float:
    """The mean position of some members, at which buffers lie where they are interpolated."""
    return float(np.mean(ts))


def measure_average(
    opened: OpenedPath, ts: Sequence[float], runtime: Runtime, log: Path, keeping: Keeping
) -> Measurement:
    """Measure the mean of the weights at some positions, kept and reported as a position in their middle."""
    network = opened.network()

    def measured_at(t: float) -> Measurement:
        network.move_to_average(ts)
        found = measure(network.model, opened.subject.data, opened.policy.batch_size, t, keeping)
        return replace(found, passes=network.passes, constant=network.constant)

    with contextlib.closing(network):
        (found,) = visit(Measurement, [middle(ts)], measured_at, runtime, log, whole=_whole(keeping))
    return found


def _stopped(done: int, total: int, pair: Mapping[str, int] | None) -> Stopped:
    where = f"after {done} of {total} positions"
    if pair is not None:
        where = "on the line " + ", ".join(f"{name} = {value}" for name, value in pair.items())
    return Stopped(f"stopped {where}", CONTINUE)


def _of_rank(log: Path, rank: int | str) -> Path:
    return log.with_name(log.name.format(rank))


def _kept(kind: type[P], log: Path | None, runtime: Runtime) -> dict[float, P]:
    """What this and other ranks have finished, by position; a damaged line is left out and said."""
    found = [] if log is None else sorted(log.parent.glob(_of_rank(log, "*").name))
    kept = dict[float, P]()
    for path in found:
        for line in logs.read(path, kind):
            if line.record is None:
                runtime.note(f"'{path}' {line.damage}: measured again")
            else:
                kept[line.record.t] = line.record
    return kept
