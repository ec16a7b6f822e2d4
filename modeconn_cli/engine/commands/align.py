"""`mcx align`: networks whose units are permuted so that their weights lie close to those of another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from modeconn_cli.engine import names, symmetry
from modeconn_cli.engine.errors import AnswerIsNo, InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, distances, graph, subject, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.results import files, jobs, records
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.align import AlignSettings
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.symmetry import Symmetry, match
from modeconn_cli.engine.symmetry import files as permutations
from modeconn_cli.engine.symmetry.match import Matched

SUMMARY = "alignments.json"


@dataclass(frozen=True)
class Apart:
    """How far apart two networks are: ‖Δ‖ and ‖Δ‖ relative to the fixed one's norm (None where that is 0)."""

    total_l2: float
    relative_total: float | None

    @classmethod
    def of(cls, fixed: Mapping[str, Tensor], moving: Mapping[str, Tensor]) -> Apart:
        found = distances.l2(fixed, moving)
        return cls(found.total_l2, found.relative_total)


@dataclass(frozen=True)
class GroupMoved:
    """A group of units, named as in the permutation's file: how many there are, and how many have another place."""

    name: str
    layers: list[str]
    units: int
    moved: int


@dataclass(frozen=True, kw_only=True)
class Alignment(Record):
    """One network, aligned. `objective` is Σ ⟨fixed, permuted⟩ over the tensors in which units move: as they were,
    after the first sweep, after each further one, of the attempt (`start`) that came out best.
    """

    schema: ClassVar[str] = "mcx.alignment/1"

    moving: str
    fixed: str
    output: str
    permutation: str
    before: Apart
    after: Apart
    objective: list[float]
    start: str
    groups: list[GroupMoved]
    max_output_diff_float64: float
    provenance: Provenance
    checkpoint_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class AlignResult(Record):
    """All networks that were aligned, by label."""

    schema: ClassVar[str] = "mcx.align/1"

    fixed: str
    seed: int
    restarts: int
    aligned: dict[str, Alignment]

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "aligned": {k: each.document() for k, each in self.aligned.items()}}


def run(settings: AlignSettings, runtime: Runtime) -> AlignResult | None:
    """Align every network, prove that each computes what it did, and write it."""
    words = names.labelled(settings.checkpoints)
    assert settings.to is not None
    outputs = _outputs(settings, list(words))
    written = [file for path in outputs.values() for file in _written(path)]
    files.refuse_inputs(written, settings.sources)
    read = [subject.read(path, settings, runtime) for path in (settings.to, *words.values())]
    opened = subject.open_networks(read, settings, runtime, "no data")
    found = _symmetry(opened)
    fixed = opened.checkpoints[0]
    units = sum(group.size for group in found.groups)
    if runtime.plan(
        [
            f"match {units:,} units in {len(found.groups)} groups of {len(words)} networks to {fixed.path}",
            *(f"write {path}" for path in outputs.values()),
        ]
    ):
        return None
    given = dict(zip(words, opened.checkpoints[1:], strict=True))
    aligned: dict[str, Alignment] = {}
    for label, due in _due(settings, outputs, runtime):
        kept = None if due else records.kept(Alignment, names.alignment(outputs[label]))
        aligned[label] = kept or _aligned(settings, runtime, opened, found, given[label], outputs[label])
    return AlignResult(
        fixed=tilde(fixed.path), seed=settings.seed, restarts=settings.restarts, aligned=aligned
    )


def _outputs(settings: AlignSettings, labels: list[str]) -> dict[str, Path]:
    """Where each aligned network goes, by its label."""
    if settings.output is not None:
        return {labels[0]: settings.output}
    assert settings.output_dir is not None
    return {label: settings.output_dir / f"{label}.pt" for label in labels}


def _written(output: Path) -> tuple[Path, ...]:
    """The files of one aligned network; the checkpoint comes last and is the commit."""
    return names.permutation(output), names.alignment(output), output


def _due(
    settings: AlignSettings, outputs: Mapping[str, Path], runtime: Runtime
) -> Iterator[tuple[str, bool]]:
    """Each network, and whether it is still to be aligned."""
    made = records.provenance(settings, "align", runtime.opened)
    for label, path in outputs.items():
        permutation, alignment, _ = _written(path)
        due = jobs.file_output(path, made, settings, record=alignment, beside=[permutation])
        if not due:
            runtime.note(f"already complete: {path}")
        yield label, due


def _symmetry(opened: Subject) -> Symmetry:
    found = symmetry.find(graph.trace(opened.model.cpu(), opened.arch.inputs(opened.model)))
    if not found.groups:
        raise InputError(
            f"{opened.arch.model} has no units that can be exchanged: "
            + "; ".join(f"{layer}: {why}" for layer, why in list(found.fixed.items())[:3])
        )
    return found


def _aligned(
    settings: AlignSettings,
    runtime: Runtime,
    opened: Subject,
    found: Symmetry,
    moving: Checkpoint,
    output: Path,
) -> Alignment:
    """Match one network, prove the permutation, write its files."""
    fixed, model = opened.checkpoints[0], opened.model
    here, there = (weights.parameters_of(model, each.state) for each in (fixed, moving))
    before = Apart.of(here, there)
    if before.total_l2 == 0:
        runtime.warn(f"'{fixed.path}' and '{moving.path}' are the same network")

    def tell(start: str, sweep: int, objective: float) -> None:
        runtime.detail(f"{moving.path.name}, {start}, sweep {sweep}: objective {objective:.6g}")

    matched = match.by_weights(found, here, there, seed=settings.seed, restarts=settings.restarts, tell=tell)
    state = symmetry.permute(moving.state, matched.orders)
    inputs = symmetry.random_inputs(opened.arch.inputs(model), settings.seed)
    difference = symmetry.output_difference(model, moving.state, state, inputs)
    result = Alignment(
        moving=tilde(moving.path),
        fixed=tilde(fixed.path),
        output=tilde(output),
        permutation=tilde(names.permutation(output)),
        before=before,
        after=Apart.of(here, weights.parameters_of(model, state)),
        objective=list(matched.objective),
        start=matched.start,
        groups=_moved(found, matched),
        max_output_diff_float64=difference.off,
        provenance=records.provenance(settings, "align", runtime.opened),
    )
    if not difference.is_rounding:
        raise AnswerIsNo(
            f"the aligned network is not equivalent: outputs differ by up to {difference.off:.3g}; nothing was written",
            "a layer's consumers are not what the graph says; please report the network",
            result,
        )
    return _publish(output, result, opened, found, moving, matched, state, runtime)


def _moved(found: Symmetry, matched: Matched) -> list[GroupMoved]:
    return [
        GroupMoved(
            name,
            list(group.rows_in),
            group.size,
            int((matched.orders[group] != np.arange(group.size)).sum()),
        )
        for name, group in found.ids.items()
    ]


def _publish(
    output: Path,
    result: Alignment,
    opened: Subject,
    found: Symmetry,
    moving: Checkpoint,
    matched: Matched,
    state: Mapping[str, Tensor],
    runtime: Runtime,
) -> Alignment:
    """Write the three files; the checkpoint comes last and is the commit."""
    model: nn.Module = opened.model
    optimizer = symmetry.optimizer.moved(moving.optimizer_state, model, matched.orders, runtime)
    about = opened.arch.about(moving.about, buffers=tuple(weights.not_parameters(model)))
    content = {checkpoints.STATE: {**state, **moving.extra}}
    data = files.tensor_bytes(checkpoints.content(moving.epoch, content, about, optimizer))
    result = replace(result, checkpoint_sha256=hashlib.sha256(data).hexdigest())
    permutations.write_orders(names.permutation(output), matched.orders, found)
    files.write_json(names.alignment(output), result.document())
    files.atomic_write(output, data)
    return result
