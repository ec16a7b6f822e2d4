"""`mcx curve extract`: the network at one position of a path, as an ordinary checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.networks.subject import load_data
from modeconn_cli.engine.paths import file
from modeconn_cli.engine.paths.opened import open_path
from modeconn_cli.engine.paths.statistics import StatisticsUsed
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record, provenance, strict
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.curve import CurveExtractSettings


@dataclass(frozen=True, kw_only=True)
class CurveExtractResult(Record):
    schema: ClassVar[str] = "mcx.curve_extract/1"

    t: float | None
    shares: list[float]
    output: str
    num_params: int
    l2_norm: float
    bn: StatisticsUsed
    provenance: Provenance


def run(settings: CurveExtractSettings, runtime: Runtime) -> CurveExtractResult | None:
    """Write w(t), or a point of a simplex, with the batch norm statistics that `--bn` asks for."""
    opened = open_path(settings, runtime, "no data", settings.shares)
    t = 0.0 if settings.shares else settings.t
    where = {"shares": list(settings.shares)} if settings.shares else {"t": t}
    settings = opened.completed(settings)
    files.refuse_inputs([settings.output], opened.files)
    found = opened.subject
    read = settings.bn == "repair" or (opened.has_batch_norm and settings.bn == "recompute")
    if read and not runtime.dry_run:
        found = replace(found, loaded=load_data(found.about, settings, runtime, "data"))
    made = provenance(settings, "curve extract", runtime.opened)
    unread = opened.unread(settings)
    due = jobs.file_output(settings.output, made, settings, stored=checkpoints.provenance_in, unread=unread)
    if runtime.dry_run:
        said = ", ".join(f"{name} = {value}" for name, value in where.items())
        runtime.plan([f"write the network at {said} to {settings.output}"])
        return None
    network = replace(opened, subject=found).network()
    network.check_written(t)
    network.move_to(t)
    state = weights.snapshot(network.model)
    statistics = network.statistics(network.constant)
    about = found.arch.about(
        found.about,
        buffers=tuple(weights.not_parameters(found.model)),
        path=strict(
            {**where, "curve": file.SIMPLEX if settings.shares else opened.path.kind, "bn": statistics}
        ),
        provenance=strict(vars(made)),
    )
    if due:
        whole = {**state, **weights.extra_of(network.model)}
        files.write_tensors(settings.output, checkpoints.content(0, {checkpoints.STATE: whole}, about))
    else:
        runtime.note(f"already complete: {settings.output}")
    parameters = weights.parameters_of(network.model, state)
    return CurveExtractResult(
        t=None if settings.shares else t,
        shares=list(settings.shares),
        output=tilde(settings.output),
        num_params=weights.count(parameters),
        l2_norm=math.sqrt(sum(float(weights.flat(p).double().square().sum()) for p in parameters.values())),
        bn=statistics,
        provenance=made,
    )
