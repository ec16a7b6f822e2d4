"""Everything that is asked of pairs of networks, each network taken up once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modeconn_cli.engine.commands.l2 import weight_space
from modeconn_cli.engine.commands.l2.chosen import Pair
from modeconn_cli.engine.commands.l2.functions import Functions
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.commands.l2.pair import L2Result
from modeconn_cli.engine.commands.l2.permuted import Permutations, Permuted
from modeconn_cli.engine.commands.l2.weight_space import LeftOut, Networks
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Opened, Runtime
from modeconn_cli.engine.networks import distances, sums
from modeconn_cli.engine.networks.distances import Distance, FunctionalDistance
from modeconn_cli.engine.settings.l2 import L2Settings


@dataclass(frozen=True)
class Measurements:
    """What was measured of every pair, or why nothing was; `data` says by metric what the samples were.

    `beside` are further pairs in weight space, None for those that could not be measured.
    """

    pairs: Mapping[Pair, L2Result | InputError]
    data: Mapping[str, Mapping[str, Any]]
    beside: Mapping[Pair, Distance | None]


def measure(
    networks: Networks,
    pairs: Sequence[Pair],
    beside: Sequence[Pair],
    settings: L2Settings,
    completed: Mapping[str, L2Settings],
    runtime: Runtime,
) -> Measurements:
    """Measure pairs of networks, by label, and the pairs `beside` in weight space alone.

    `completed` are the settings of each network, with what checkpoints say of their data.

    A network that is broken or does not fit spoils its own pairs only, and only what it cannot give.
    """
    every = list(dict.fromkeys([*pairs, *beside]))
    nonfinite, left_out = settings.allow_nonfinite, dict[Pair, LeftOut]()
    if settings.common:
        found, failed, left_out = weight_space.in_common(networks, every, allow_nonfinite=nonfinite)
    else:
        found, failed = weight_space.measure(networks, every, allow_nonfinite=nonfinite)
    own = [pair for pair in pairs if pair in found]
    used = {label for pair in own for label in pair}
    usable = {label: n for label, n in networks.items() if label in used and isinstance(n, Network)}
    problems: dict[Pair, InputError] = {}
    answers: dict[Pair, FunctionalDistance] = {}
    errors: dict[Pair, float] = {}
    opened: dict[Pair, Opened] = {}
    data: dict[str, Mapping[str, Any]] = {}
    for labels in weight_space.alike(usable) if settings.needs_data else ():
        of_group = runtime.for_command()  # networks of several kinds may have several data sets
        functions = Functions(completed[labels[0]], {label: usable[label] for label in labels}, of_group)
        members = set(labels)
        group = [pair for pair in own if members.issuperset(pair)]
        opened |= dict.fromkeys(group, of_group.opened)
        if "fisher" in settings.metric:
            for pair, weighted in functions.fisher(group).items():
                found[pair] = sums.with_fisher(found[pair], weighted.by_tensor)
                errors[pair] = weighted.stderr
        if "functional" in settings.metric:
            answers |= functions.functional(group)
        data |= functions.data
        for pair in group:
            met = [error for label, error in functions.problems.items() if label in pair]
            if met:
                problems[pair] = met[0]
    permuted = _permuted(own, usable, problems, settings, completed, runtime)
    distance = {
        pair: replace(distances.distance(squares), fisher_distance_stderr=errors.get(pair))
        for pair, squares in found.items()
    }
    results = {
        pair: L2Result(
            settings=completed[pair[0]],
            networks=(usable[pair[0]], usable[pair[1]]),
            opened=opened.get(pair, runtime.opened),
            data=data,
            distance=distance[pair],
            functional=answers.get(pair),
            permuted=permuted.get(pair),
            left_out=left_out.get(pair),
            problem=problems.get(pair),
        )
        for pair in own
    }
    both = {pair: results.get(pair) or failed[pair] for pair in pairs}
    return Measurements(both, data, {pair: distance.get(pair) for pair in beside})


def _permuted(
    pairs: Sequence[Pair],
    usable: Mapping[str, Network],
    problems: dict[Pair, InputError],
    settings: L2Settings,
    completed: Mapping[str, L2Settings],
    runtime: Runtime,
) -> dict[Pair, Permuted | None]:
    """The distance of every pair with units permuted, where that is asked for; `problems` hears why one has none."""
    found: dict[Pair, Permuted | None] = {}
    permutations = Permutations(settings, runtime)
    for first, second in pairs if settings.permuted else ():
        try:
            found[first, second] = permutations.of(usable[first], usable[second], completed[first])
        except InputError as error:
            problems.setdefault((first, second), error)
    return found
