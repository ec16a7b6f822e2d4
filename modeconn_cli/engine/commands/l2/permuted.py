"""Distances with units permuted: known swaps undone, a permutation applied, or the best one that is found."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from modeconn_cli.engine import names, symmetry
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import distances, subject, weights
from modeconn_cli.engine.networks.checkpoints import STATE
from modeconn_cli.engine.networks.distances import Distance
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.results.fingerprints import identify, sha256
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.symmetry import files as permutations
from modeconn_cli.engine.symmetry.align import NEEDED, Aligner, Method


@dataclass(frozen=True)
class Permuted:
    """The distance of a pair with units permuted, and `how`: taken back to what both were made from (`swap`), by a
    permutation's `file`, or to the first network by `weights` or `activations`. `metadata` are the files that say it.
    """

    how: Literal["swap", "file", "weights", "activations"]
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
        # An original's metadata says no hash.
        if where and said and said.get("checkpoint_sha256") not in (None, sha256(names.file_of(where))):
            if not out:
                raise InputError(f"'{beside}' is the metadata of another file than '{path}'", "swap it again")
            said = beside = None  # the original has been replaced since: its own history is not this one's
        out.append(Made(content, beside))
        if said is None:
            return out
        content, where = _original(said)
        if any(content == made.sha256 for made in out):
            raise InputError(f"the swaps that made '{path}' lead back to it")


def metadata_of(path: Path) -> Path | None:
    """The metadata beside a file, or beside what a link leads to."""
    file, entry = names.file_and_entry(path)
    if entry not in (None, STATE):  # the metadata is of the weights that the swap wrote
        return None
    beside = (names.swap_metadata(place) for place in (file, file.resolve()))
    return next((found for found in beside if found.is_file()), None)


def _original(said: Mapping[str, Any]) -> tuple[str, Path | None]:
    """Content and place of the network that a swap began with; by the file that is there where nothing else says."""
    path = Path(str(said.get("original_checkpoint", ""))).expanduser()
    there = path if names.file_of(path).is_file() else None
    with contextlib.suppress(KeyError, IndexError, TypeError):
        recorded = said["provenance"]["inputs"][0]["sha256"]
        if isinstance(recorded, str):
            return recorded, there
    return f"the original '{path}'" if there is None else identify(there).sha256, there


class Permutations:
    """Permutes networks as the settings ask; the graph of an architecture is traced once."""

    def __init__(self, settings: L2Settings, runtime: Runtime) -> None:
        self._settings, self._runtime = settings, runtime
        self._aligners: dict[str, Aligner] = {}

    def of(self, first: Network, second: Network, completed: L2Settings) -> Permuted | None:
        """The distance with units permuted; None for a pair without swaps to undo. The settings that are `completed`
        say the pair's data, where it is aligned by activations.
        """
        if self._settings.modulo_permutation:
            return self._undone(first, second)
        file, read = self._settings.permutation, [first.checkpoint, second.checkpoint]
        needed, runtime = NEEDED[self._method], self._runtime
        if needed != "no data":  # which are told and recorded once for all pairs
            runtime = runtime.for_command().hushed()
        opened = subject.open_networks(read, completed, runtime, needed)
        aligner, (fixed, moving) = self._aligner(opened), opened.checkpoints
        if file is None:
            orders = aligner.pair(fixed.state, moving.state).orders
        else:
            permutations.check_found_for(file, moving.path, self._runtime)
            orders = permutations.orders_to_first(file, aligner.symmetry)
        distance = distances.l2(first.weights, _compared(symmetry.permute(moving.state, orders), second))
        return (
            Permuted(self._method, (), distance) if file is None else Permuted("file", (str(file),), distance)
        )

    @property
    def _method(self) -> Method:
        return "activations" if self._settings.align == "activations" else "weights"

    def _undone(self, first: Network, second: Network) -> Permuted | None:
        """The distance without swaps; None where the two have no common original, and where none was swapped."""
        ways = [lineage(network.path) for network in (first, second)]
        known = [made.sha256 for made in ways[1]]
        common = next((made.sha256 for made in ways[0] if made.sha256 in known), None)
        if common is None or max(map(len, ways)) == 1:
            return None
        metadata: list[str] = []
        sides = []
        for network, way in zip((first, second), ways, strict=True):
            swaps = way[: [made.sha256 for made in way].index(common)]
            steps = [made.metadata for made in swaps if made.metadata is not None]
            sides.append(self._back(network, steps))
            metadata += map(str, steps)
        return Permuted("swap", tuple(metadata), distances.l2(*sides))

    def _back(self, network: Network, steps: list[Path]) -> Mapping[str, Tensor]:
        """What is compared of a network, with its last swaps undone."""
        if not steps:
            return network.weights
        opened = subject.open_networks([network.checkpoint], self._settings, self._runtime, "no data")
        found, state = self._aligner(opened).symmetry, opened.checkpoints[0].state
        for step in steps:
            state = symmetry.permute(state, permutations.orders_to_first(step, found))
        return _compared(state, network)

    def _aligner(self, opened: Subject) -> Aligner:
        key = repr(opened.arch)
        if key not in self._aligners:
            opened.model.cpu()
            self._aligners[key] = Aligner.of(
                opened, self._method, batch_size=self._settings.batch_size, seed=self._settings.seed
            )
        return self._aligners[key]


def _compared(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """What is compared of a network, under the names of its file, of a state under the network's own."""
    named = weights.named_as(state, network.checkpoint.whole)
    return {name: named[name] for name in network.weights}


def missing(first: Network, second: Network) -> InputError:
    """Why there is no such distance."""
    if metadata_of(first.path) is None and metadata_of(second.path) is None:
        places = " nor ".join(f"'{names.swap_metadata(network.path)}'" for network in (first, second))
        return InputError(
            f"no swap is known: neither {places} exists", "mcx swap writes its metadata beside the checkpoint"
        )
    return InputError(f"'{first.path}' and '{second.path}' were not swapped from one network")
