"""Everything that is asked of pairs of networks, each network taken up once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeconn_cli.engine.commands.l2 import pairs as weight_space
from modeconn_cli.engine.commands.l2.functions import FunctionalDistance, Functions, functional, known
from modeconn_cli.engine.commands.l2.inputs import Network
from modeconn_cli.engine.commands.l2.pairs import Networks, Pair
from modeconn_cli.engine.commands.l2.permuted import Permutations, Permuted
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import distances, sums
from modeconn_cli.engine.networks.distances import Distance
from modeconn_cli.engine.networks.sums import Squares
from modeconn_cli.engine.settings.l2 import L2Settings


@dataclass(frozen=True)
class Apart:
    """How far apart a pair is; what was not asked for is None, and so is what `problem` says could not be measured."""

    distance: Distance
    functional: FunctionalDistance | None = None
    permuted: Permuted | None = None
    problem: InputError | None = None


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

    A network that is broken or does not fit spoils its own pairs only, and only what it cannot give.
    """
    every = weight_space.measure(
        networks, list(dict.fromkeys([*pairs, *beside])), allow_nonfinite=settings.allow_nonfinite
    )
    found = {pair: squares for pair in pairs if not isinstance(squares := every[pair], InputError)}
    whole = _Whole(networks, found, settings, runtime)
    if settings.needs_data:
        whole.compute()
    if settings.modulo_permutation:
        whole.undo()
    out: dict[Pair, Apart | InputError] = {}
    for pair in pairs:
        squares = every[pair]
        out[pair] = squares if isinstance(squares, InputError) else whole.apart(pair)
    others = {pair: every[pair] for pair in beside}
    return Measures(
        out,
        whole.data,
        {pair: None if isinstance(s, InputError) else distances.distance(s) for pair, s in others.items()},
    )


class _Whole:
    """What is measured beyond the sums of weights, by pair."""

    def __init__(
        self,
        networks: Networks,
        found: Mapping[Pair, dict[str, Squares]],
        settings: L2Settings,
        runtime: Runtime,
    ) -> None:
        self._found, self._settings, self._runtime = dict(found), settings, runtime
        used = {label for pair in found for label in pair}
        self._networks = {
            label: network
            for label, network in networks.items()
            if label in used and isinstance(network, Network)
        }
        self._problems: dict[Pair, InputError] = {}
        self._answers: dict[Pair, FunctionalDistance] = {}
        self._permuted: dict[Pair, Permuted] = {}
        self.data: dict[str, Mapping[str, Any]] = {}

    def apart(self, pair: Pair) -> Apart:
        return Apart(
            distances.distance(self._found[pair]),
            self._answers.get(pair),
            self._permuted.get(pair),
            self._problems.get(pair),
        )

    def compute(self) -> None:
        """Fisher and functional distances, of networks with the same tensors on one set of data."""
        for labels in weight_space.alike(self._networks):
            group = {label: self._networks[label] for label in labels}
            own = [pair for pair in self._found if set(pair) <= set(labels)]
            functions = Functions(self._settings, list(group.values()), self._runtime)
            if "fisher" in self._settings.metric:
                self._fisher(functions, group, own)
            if "functional" in self._settings.metric:
                self._functional(functions, group, own)

    def undo(self) -> None:
        undone = Permutations(self._settings, self._runtime)
        for pair in self._found:
            try:
                permuted = undone.distance(*(self._networks[label] for label in pair))
            except InputError as error:
                self._problems.setdefault(pair, error)
                continue
            if permuted is not None:
                self._permuted[pair] = permuted

    def _fisher(self, functions: Functions, group: Mapping[str, Network], own: list[Pair]) -> None:
        """Σ F (a − b)² with F the mean of both networks' information, one information at a time."""
        samples = functions.fisher_samples()
        halves: dict[Pair, list[dict[str, float]]] = {pair: [] for pair in own}

        def add(label: str, network: Network) -> None:
            information = known(functions.fisher(network, samples), network)
            for pair in own:
                if label in pair:
                    sides = [group[one].weights for one in pair]
                    halves[pair].append(sums.weighted(sides[0], sides[1], information))

        self._each("fisher", group, own, add)
        for pair, parts in halves.items():
            if len(parts) == 2:
                mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}
                self._found[pair] = sums.with_fisher(self._found[pair], mean)
        kind = {"kind": self._settings.fisher, "seed": self._settings.seed}
        self.data["fisher"] = {**kind, **functions.describe(samples, "all-train")}

    def _functional(self, functions: Functions, group: Mapping[str, Network], own: list[Pair]) -> None:
        """Every network's answers once, and every pair's difference."""
        samples = functions.samples("test")
        logits = {}
        with tempfile.TemporaryDirectory(prefix="mcx-") as folder:

            def add(label: str, network: Network) -> None:
                logits[label] = functions.logits(network, samples, Path(folder))

            self._each("functional", group, own, add)
            for pair in own:
                if set(pair) <= set(logits):
                    self._answers[pair] = functional(logits[pair[0]], logits[pair[1]])
        self.data["functional"] = functions.describe(samples, "test")

    def _each(
        self, metric: str, group: Mapping[str, Network], own: list[Pair], add: Callable[[str, Network], None]
    ) -> None:
        for done, (label, network) in enumerate(group.items(), start=1):
            try:
                add(label, network)
            except InputError as error:
                for pair in own:
                    if label in pair:
                        self._problems.setdefault(pair, error)
            self._runtime.progress(done, len(group), "network", metric=metric, checkpoint=label)
