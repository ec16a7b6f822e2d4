"""Everything that is asked of pairs of networks, each network taken up once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeconn_cli.engine import distances, sums
from modeconn_cli.engine.distances import Distance
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.l2 import pairs as weight_space
from modeconn_cli.engine.l2.functions import FunctionalDistance, Functions, functional, known
from modeconn_cli.engine.l2.inputs import Network
from modeconn_cli.engine.l2.pairs import Measured, Networks, Pair
from modeconn_cli.engine.l2.permuted import Permutations, Permuted
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.l2 import L2Settings


@dataclass(frozen=True)
class Apart:
    """How far apart a pair is; what was not asked for is None."""

    distance: Distance
    functional: FunctionalDistance | None = None
    permuted: Permuted | None = None


@dataclass(frozen=True)
class Measures:
    """Of every pair, its distances or why there are none; `data` says what the samples were, by metric."""

    apart: dict[Pair, Apart | InputError]
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    beside: Mapping[Pair, Distance | None] = field(default_factory=dict)


def measure(
    networks: Networks,
    pairs: Sequence[Pair],
    settings: L2Settings,
    runtime: Runtime,
    beside: Sequence[Pair] = (),
) -> Measures:
    """Measure pairs of networks, by label, and the pairs `beside` in weight space alone.

    A network that is broken or does not fit spoils its own pairs only.
    """
    every = weight_space.measure(
        networks, list(dict.fromkeys([*pairs, *beside])), allow_nonfinite=settings.allow_nonfinite
    )
    found = {pair: every[pair] for pair in pairs}
    usable = {
        label: network
        for label, network in networks.items()
        if isinstance(network, Network)
        and any(label in pair and not isinstance(sums_, InputError) for pair, sums_ in found.items())
    }
    data: dict[str, Mapping[str, Any]] = {}
    answers: dict[Pair, FunctionalDistance] = {}
    if settings.needs_data and usable:
        functions = Functions(settings, next(iter(usable.values())), runtime)
        if "fisher" in settings.metric:
            data["fisher"] = _add_fisher(functions, usable, found, settings, runtime)
        if "functional" in settings.metric:
            data["functional"] = _add_functional(functions, usable, found, answers, runtime)
    undone = Permutations(settings, runtime) if settings.modulo_permutation else None
    out: dict[Pair, Apart | InputError] = {}
    for pair, squares in found.items():
        if isinstance(squares, InputError):
            out[pair] = squares
            continue
        permuted = undone.distance(usable[pair[0]], usable[pair[1]]) if undone is not None else None
        out[pair] = Apart(distances.distance(squares), answers.get(pair), permuted)
    others = {pair: every[pair] for pair in beside}
    return Measures(
        out,
        data,
        {pair: None if isinstance(s, InputError) else distances.distance(s) for pair, s in others.items()},
    )


def _add_fisher(
    functions: Functions,
    usable: Mapping[str, Network],
    found: Measured,
    settings: L2Settings,
    runtime: Runtime,
) -> dict[str, Any]:
    """Σ F (a − b)² of every pair with F the mean of both networks' information, one information at a time."""
    samples = functions.fisher_samples()
    halves: dict[Pair, list[dict[str, float]]] = {pair: [] for pair in found}
    for done, (label, network) in enumerate(usable.items(), start=1):
        try:
            information = known(functions.fisher(network, samples), network)
        except InputError as error:
            _spoil(found, label, error)
            continue
        for pair in found:
            if label in pair and not isinstance(found[pair], InputError):
                sides = [usable[one].weights for one in pair]
                halves[pair].append(sums.weighted(sides[0], sides[1], information))
        runtime.progress(done, len(usable), "network", metric="fisher", checkpoint=label)
    for pair, squares in found.items():
        if not isinstance(squares, InputError):
            one, other = halves[pair]
            found[pair] = sums.with_fisher(squares, {name: (one[name] + other[name]) / 2 for name in one})
    kind = {"kind": settings.fisher, "seed": settings.seed}
    return {**kind, **functions.describe(samples, "all-train")}


def _add_functional(
    functions: Functions,
    usable: Mapping[str, Network],
    found: Measured,
    answers: dict[Pair, FunctionalDistance],
    runtime: Runtime,
) -> dict[str, Any]:
    """Every network's answers once, and every pair's difference."""
    samples = functions.samples("test")
    with tempfile.TemporaryDirectory(prefix="mcx-") as folder:
        logits = {}
        for done, (label, network) in enumerate(usable.items(), start=1):
            try:
                logits[label] = functions.logits(network, samples, Path(folder))
            except InputError as error:
                _spoil(found, label, error)
            runtime.progress(done, len(usable), "network", metric="functional", checkpoint=label)
        for pair in found:
            if not isinstance(found[pair], InputError):
                answers[pair] = functional(logits[pair[0]], logits[pair[1]])
    return functions.describe(samples, "test")


def _spoil(found: Measured, label: str, error: InputError) -> None:
    """A network that fits no model has no distances at all: half a result would look like a whole one."""
    for pair in found:
        if label in pair:
            found[pair] = error
