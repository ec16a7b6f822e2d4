"""`mcx l2`: how far apart two checkpoints are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from modeconn_cli.engine.commands.l2 import inputs, permuted
from modeconn_cli.engine.commands.l2.inputs import Network
from modeconn_cli.engine.commands.l2.measures import Apart, measure
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.distances import Distance
from modeconn_cli.engine.results import files, jobs, records
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.l2 import L2Settings


@dataclass(frozen=True, kw_only=True)
class L2Result(Record):
    """One pair. `data` says on which samples its metrics were measured."""

    schema: ClassVar[str] = "mcx.l2/1"

    apart: Apart
    settings: L2Settings
    networks: tuple[Network, Network]
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def distance(self) -> Distance:
        return self.apart.distance

    @cached_property
    def provenance(self) -> Provenance:
        """Made for what is written only, as it hashes the files."""
        return provenance(self.settings, self.networks)

    def fields(self) -> dict[str, Any]:
        d, asked = self.distance, self.settings
        top = [
            {"rank": rank, "layer_name": layer.layer_name, **layer.figures(asked.further)}
            for rank, layer in enumerate(d.top(asked.show_top_k, asked.order), start=1)
        ]
        return {
            "checkpoint1": tilde(self.networks[0].path),
            "checkpoint2": tilde(self.networks[1].path),
            "metrics": asked.metric,
            "total_l2": d.total_l2,
            "normalized_total_l2": d.normalized_total_l2,
            "relative_total": d.relative_total,
            "total_params": d.total_params,
            **{name: getattr(d, name) for name in asked.further},
            **self._functional(),
            **self._permuted(),
            "num_layers": len(d.layers),
            "sorted_by": asked.order,
            "include_buffers": asked.include_buffers,
            f"top_{asked.show_top_k}_layers": top,
            "all_layer_distances": {layer.layer_name: layer.figures(asked.further) for layer in d.layers},
            "modules": {layer.layer_name: layer.figures(asked.further) for layer in d.modules},
            "data": self.data,
            "provenance": self.provenance,
        }

    def _functional(self) -> dict[str, Any]:
        found = self.apart.functional
        return {} if found is None else {"functional": asdict(found)}

    def _permuted(self) -> dict[str, Any]:
        found = self.apart.permuted
        if found is None:
            return {}
        d = found.distance
        return {
            "modulo_permutation": {
                "metadata": [tilde(Path(path)) for path in found.metadata],
                "total_l2": d.total_l2,
                "normalized_total_l2": d.normalized_total_l2,
                "relative_total": d.relative_total,
                "all_layer_distances": {layer.layer_name: layer.figures() for layer in d.layers},
            }
        }


def run(settings: L2Settings, runtime: Runtime) -> L2Result | None:
    """Measure a pair and write `--output` where one is asked for."""
    settings.refuse("on two checkpoints", "pairs")
    first, second = inputs.given(settings, runtime).paths.values()
    if runtime.dry_run:
        runtime.plan([f"measure the distance from {first} to {second} ({', '.join(settings.metric)})"])
        return None
    if settings.output is not None:
        files.refuse_inputs([settings.output], [first, second])
        files.check_writable(settings.output.parent)
    networks = {
        label: inputs.read(label, path, settings, runtime)
        for label, path in (("first", first), ("second", second))
    }
    left, right = networks.values()
    write = settings.output is not None and jobs.file_output(
        settings.output, provenance(settings, (left, right)), settings
    )
    found = measure(networks, [("first", "second")], settings, runtime)
    (apart,) = found.apart.values()
    if isinstance(apart, InputError):
        raise apart
    if apart.problem is not None:
        raise apart.problem
    if settings.modulo_permutation and apart.permuted is None:
        raise permuted.missing(left, right)
    _remark(left, right, apart.distance, runtime)
    result = L2Result(apart=apart, settings=settings, networks=(left, right), data=found.data)
    if settings.output is not None:
        for network in (left, right):
            network.check_unchanged()
        if write:
            files.write_json(settings.output, result.document())
        else:
            runtime.note(f"already complete: {settings.output}")
    if "l2" in settings.metric:
        runtime.note(size_note(apart.distance))
    return result


def _remark(left: Network, right: Network, distance: Distance, runtime: Runtime) -> None:
    if left.path.samefile(right.path):
        runtime.warn("the two checkpoints are the same file")
    elif distance.total_l2 == 0:
        runtime.warn("the two checkpoints hold the same weights")
    if any(left.weights[name].dtype != right.weights[name].dtype for name in left.weights):
        runtime.note("the checkpoints differ in precision; both are taken to float64")


def provenance(settings: L2Settings, networks: tuple[Network, Network]) -> Provenance:
    """Of a pair, whichever command it was measured by; with the metadata of swaps that are undone."""
    first, second = networks
    alone = replace(
        settings, checkpoints=(), checkpoint1=first.path, checkpoint2=second.path, pairs="first", output=None,
        output_dir=None, start_epoch=None, end_epoch=None, epoch_step=1,
    )  # fmt: skip
    inputs = [first.path, second.path]
    if settings.modulo_permutation:
        ways = [permuted.lineage(network.path) for network in networks]
        inputs += [made.metadata for way in ways for made in way if made.metadata is not None]
    return records.provenance(alone, "l2", inputs)


def size_note(distance: Distance) -> str:
    """The document's word for a distance, with what it leaves out."""
    value = distance.normalized_total_l2
    word = "small" if value < 0.1 else "medium" if value <= 1 else "large"
    relative = "n/a" if distance.relative_total is None else f"{100 * distance.relative_total:.2f}%"
    return (
        f"in the document's words a {word} distance (by normalized L2: small < 0.1, medium up to 1; large networks "
        f"are always small by it); relative to the first network: {relative}"
    )
