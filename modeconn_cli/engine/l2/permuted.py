"""Distances with a known swap undone: what is left when the symmetry is taken out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from modeconn_cli.engine import distances, graph, models, names, permutations, symmetry, weights
from modeconn_cli.engine.distances import Distance
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.l2.inputs import Network
from modeconn_cli.engine.models.recognise import recognised
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.symmetry import Symmetry


@dataclass(frozen=True)
class Permuted:
    """The distance of a pair whose swaps, by the metadata named, are undone."""

    metadata: tuple[str, ...]
    distance: Distance


class Permutations:
    """Undoes the swaps of networks of one architecture."""

    def __init__(self, settings: L2Settings, runtime: Runtime) -> None:
        self._settings, self._runtime = settings, runtime
        self._symmetry: Symmetry | None = None
        self._undone: dict[str, dict[str, Tensor]] = {}

    def distance(self, first: Network, second: Network) -> Permuted | None:
        """None where neither network has the metadata of a swap beside it."""
        known = [path for path in (_metadata(first), _metadata(second)) if path is not None]
        if not known:
            return None
        sides = [self._original(network) for network in (first, second)]
        return Permuted(tuple(map(str, known)), distances.l2(*sides))

    def _original(self, network: Network) -> dict[str, Tensor]:
        """What is compared of a network before its swap."""
        metadata = _metadata(network)
        if metadata is None:
            return network.weights
        if network.label not in self._undone:
            orders = permutations.rebasing(metadata, self._found(network))
            moved = symmetry.permute(network.checkpoint.state, self._found(network), orders)
            self._undone[network.label] = {name: moved[name] for name in network.weights}
        return self._undone[network.label]

    def _found(self, network: Network) -> Symmetry:
        if self._symmetry is None:
            checkpoint = recognised(network.checkpoint, self._settings, self._runtime)
            arch = models.architecture(self._settings, checkpoint)
            model = models.build(arch)
            weights.load_into(model, network.checkpoint.state, str(network.path))
            self._symmetry = symmetry.find(graph.trace(model, arch.input_shape))
        return self._symmetry


def _metadata(network: Network) -> Path | None:
    path = names.swap_metadata(network.path)
    return path if path.is_file() else None


def missing(first: Network, second: Network) -> InputError:
    """Why there is no such distance."""
    return InputError(
        f"no swap is known: neither '{names.swap_metadata(first.path)}' nor '{names.swap_metadata(second.path)}' "
        "exists",
        "mcx swap writes its metadata beside the checkpoint",
    )
