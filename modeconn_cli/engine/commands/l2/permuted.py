"""Distances with known swaps undone: what is left when the symmetry is taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from modeconn_cli.engine import names, symmetry
from modeconn_cli.engine.commands.l2.inputs import Network
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import distances, graph, models, weights
from modeconn_cli.engine.networks.distances import Distance
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.results.fingerprints import identify, sha256
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.symmetry import Symmetry
from modeconn_cli.engine.symmetry import files as permutations


@dataclass(frozen=True)
class Permuted:
    """The distance of a pair taken back to what both were made from; `metadata` of the swaps that are undone."""

    metadata: tuple[str, ...]
    distance: Distance


@dataclass(frozen=True)
class Made:
    """A network on the way back to its original: its content, and the swap that made it (None for an original)."""

    sha256: str
    metadata: Path | None


def lineage(path: Path) -> list[Made]:
    """The network of a file, the one that it was swapped from, and so on to the first.

    Contents are compared, not names. Raises InputError for metadata that is broken or speaks of another file.
    """
    out: list[Made] = []
    content = identify(path).sha256
    where: Path | None = path
    while True:
        beside = None if where is None else metadata_of(where)
        said = None if beside is None else permutations.read_metadata(beside)
        if where is not None and said is not None and not _is_of(said, where):
            if not out:
                raise InputError(f"'{beside}' is the metadata of another file than '{path}'", "swap it again")
            said = beside = None  # the original has been replaced since: its own history is not this one's
        out.append(Made(content, beside))
        if said is None:
            return out
        content, where = _original(said)
        if any(content == made.sha256 for made in out):
            raise InputError(f"the swaps that made '{path}' lead back to it")


def _is_of(said: Mapping[str, Any], path: Path) -> bool:
    """Whether metadata speaks of a file; the original's says no hash."""
    return said.get("checkpoint_sha256") in (None, sha256(path))


def metadata_of(path: Path) -> Path | None:
    """The metadata beside a file, or beside what a link leads to."""
    for place in (path, path.resolve()):
        found = names.swap_metadata(place)
        if found.is_file():
            return found
    return None


def _original(said: Mapping[str, Any]) -> tuple[str, Path | None]:
    """Content and place of the network that a swap began with; by the file that is there where nothing else says."""
    path = Path(str(said.get("original_checkpoint", ""))).expanduser()
    inputs = said.get("provenance", {}).get("inputs") if isinstance(said.get("provenance"), dict) else None
    if inputs and isinstance(inputs[0], dict) and isinstance(inputs[0].get("sha256"), str):
        return inputs[0]["sha256"], path if path.is_file() else None
    if path.is_file():
        return identify(path).sha256, path
    return f"the original '{path}'", None


class Permutations:
    """Undoes the swaps of networks of one architecture."""

    def __init__(self, settings: L2Settings, runtime: Runtime) -> None:
        self._settings, self._runtime = settings, runtime
        self._symmetries: dict[str, Symmetry] = {}

    def distance(self, first: Network, second: Network) -> Permuted | None:
        """None where the two have no common original, and where none was swapped."""
        ways = [lineage(network.path) for network in (first, second)]
        common = next(
            (made.sha256 for made in ways[0] if made.sha256 in {other.sha256 for other in ways[1]}), None
        )
        if common is None or max(map(len, ways)) == 1:
            return None
        undone: list[str] = []
        sides = []
        for network, way in zip((first, second), ways, strict=True):
            steps = [made.metadata for made in way[: [made.sha256 for made in way].index(common)]]
            known = [path for path in steps if path is not None]
            sides.append(self._back(network, known))
            undone += map(str, known)
        return Permuted(tuple(undone), distances.l2(*sides))

    def _back(self, network: Network, steps: list[Path]) -> dict[str, Tensor]:
        """What is compared of a network, with its last swaps undone."""
        if not steps:
            return network.weights
        found = self._found(network)
        state: Mapping[str, Tensor] = network.checkpoint.state
        for metadata in steps:
            state = symmetry.permute(state, permutations.orders_to_first(metadata, found))
        return {name: state[name] for name in network.weights}

    def _found(self, network: Network) -> Symmetry:
        checkpoint = recognised(network.checkpoint, self._settings, self._runtime)
        arch = models.architecture(self._settings, checkpoint.about, checkpoint.path)
        key = repr(arch)
        if key not in self._symmetries:
            model = models.build(arch)
            weights.load_into(model, network.checkpoint.state, str(network.path))
            self._symmetries[key] = symmetry.find(graph.trace(model, arch.input_shape))
        return self._symmetries[key]


def missing(first: Network, second: Network) -> InputError:
    """Why there is no such distance."""
    if metadata_of(first.path) is None and metadata_of(second.path) is None:
        places = " nor ".join(f"'{names.swap_metadata(network.path)}'" for network in (first, second))
        return InputError(
            f"no swap is known: neither {places} exists", "mcx swap writes its metadata beside the checkpoint"
        )
    return InputError(f"'{first.path}' and '{second.path}' were not swapped from one network")
