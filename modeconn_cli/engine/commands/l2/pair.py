"""The record of one pair: what is printed of a pair alone, and a file per pair where there are several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.l2 import permuted
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.commands.l2.permuted import Permuted
from modeconn_cli.engine.commands.l2.weight_space import LeftOut
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Opened, Runtime
from modeconn_cli.engine.networks.distances import Distance, FunctionalDistance
from modeconn_cli.engine.results import records
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.l2 import L2Settings

DOCUMENTED = 10  # layers under the documented key, whatever --show-top-k says


@dataclass(frozen=True, kw_only=True)
class L2Result(Record):
    """One pair. What was not asked for is None, and so is what could not be measured, for which `problem` says why.

    `data` says by metric on which samples it was measured, which are `opened`; `left_out` what --common
    did not compare.
    """

    schema: ClassVar[str] = "mcx.l2/1"

    settings: L2Settings
    networks: tuple[Network, Network]
    opened: Opened
    data: Mapping[str, Mapping[str, Any]]
    distance: Distance
    functional: FunctionalDistance | None = None
    permuted: Permuted | None = None
    left_out: LeftOut | None = None
    problem: InputError | None = None

    @cached_property
    def provenance(self) -> Provenance:
        """The provenance of the pair, which is only made for what is written, as it hashes the files."""
        first, second = (network.path for network in self.networks)
        return provenance(self.settings, first, second, self.opened)

    def fields(self) -> dict[str, Any]:
        d, asked = self.distance, self.settings
        top = [
            {"rank": rank, "layer_name": layer.layer_name, **layer.figures(asked.further)}
            for rank, layer in enumerate(d.top(max(asked.show_top_k, DOCUMENTED), asked.order), start=1)
        ]
        further: dict[str, Any] = {name: getattr(d, name) for name in asked.further}
        if "fisher_distance" in further:
            further["fisher_distance_stderr"] = d.fisher_distance_stderr
        if self.functional is not None:
            further["functional"] = self.functional
        if self.permuted is not None:
            swaps, rest = self.permuted.metadata, self.permuted.distance
            further["modulo_permutation"] = {
                "how": self.permuted.how,
                "metadata": [tilde(Path(path)) for path in swaps],
                **rest.totals(),
                "all_layer_distances": {layer.layer_name: layer.figures() for layer in rest.layers},
            }
        if self.left_out is not None:
            further["left_out"] = self.left_out
        return {
            "checkpoint1": tilde(self.networks[0].path),
            "checkpoint2": tilde(self.networks[1].path),
            "metrics": asked.metric,
            **d.totals(),
            "total_params": d.total_params,
            **further,
            "num_layers": len(d.layers),
            "sorted_by": asked.order,
            "include_buffers": asked.include_buffers,
            **{f"top_{k}_layers": top[:k] for k in sorted({DOCUMENTED, asked.show_top_k})},
            "all_layer_distances": {layer.layer_name: layer.figures(asked.further) for layer in d.layers},
            "modules": {layer.layer_name: layer.figures(asked.further) for layer in d.modules},
            "data": self.data,
            "provenance": self.provenance,
        }


def provenance(settings: L2Settings, first: Path, second: Path, opened: Opened) -> Provenance:
    """The provenance of a pair, which is the same whether it was measured alone or among others.

    The metadata of swaps that are undone are among its inputs.
    """
    alone = replace(
        settings, checkpoints=(), checkpoint1=first, checkpoint2=second, pairs="first", output=None,
        output_dir=None, start_epoch=None, end_epoch=None, epoch_step=1,
    )  # fmt: skip
    ways = [permuted.lineage(path) for path in (first, second)] if settings.modulo_permutation else []
    swaps = [made.metadata for way in ways for made in way if made.metadata is not None]
    return records.provenance(alone, "l2", opened, swaps)


def check_alone(result: L2Result | InputError, runtime: Runtime) -> L2Result:
    """The result of a pair alone, with what makes it suspicious said.

    Raises InputError where anything that was asked for was not measured.
    """
    if isinstance(result, InputError):
        raise result
    if result.problem is not None:
        raise result.problem
    first, second = result.networks
    if result.settings.modulo_permutation and result.permuted is None:
        raise permuted.missing(first, second)
    (file, entry), (other, its) = (names.file_and_entry(network.path) for network in (first, second))
    if file.samefile(other) and entry == its:
        runtime.warn("the two checkpoints are the same file")
    elif result.distance.total_l2 == 0:
        runtime.warn("the two checkpoints hold the same weights")
    layers = [layer.layer_name for layer in result.distance.layers]
    if any(first.weights[name].dtype != second.weights[name].dtype for name in layers):
        runtime.note("the checkpoints differ in precision; both are taken to float64")
    return result


def size_note(distance: Distance) -> str:
    """The document's word for a distance, with what it leaves out."""
    value = distance.normalized_total_l2
    word = "small" if value < 0.1 else "medium" if value <= 1 else "large"
    relative = "n/a" if distance.relative_total is None else f"{100 * distance.relative_total:.2f}%"
    return (
        f"in the document's words a {word} distance (by normalized L2: small < 0.1, medium up to 1; large networks "
        f"are always small by it); relative to the first network: {relative}"
    )
