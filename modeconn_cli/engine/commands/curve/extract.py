"""`mcx curve extract`: the network at one position of a path, as an ordinary checkpoint."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.networks.subject import Needed, load_data
from modeconn_cli.engine.paths.statistics import Positioned, open_path
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record, provenance, strict
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.curve import CurveExtractSettings


@dataclass(frozen=True, kw_only=True)
class CurveExtractResult(Record):
    schema: ClassVar[str] = "mcx.curve_extract/1"

    t: float
    output: str
    num_params: int
    l2_norm: float
    bn: dict[str, Any]
    provenance: Provenance


def run(settings: CurveExtractSettings, runtime: Runtime) -> CurveExtractResult | None:
    """Write w(t) with the batch norm statistics that `--bn` asks for."""
    source = open_path(settings, runtime, "no data")
    made = provenance(settings, "curve extract", source.inputs)
    files.refuse_inputs([settings.output], source.inputs)
    unread = settings.unread(source.has_batch_norm)
    due = jobs.file_output(settings.output, made, settings, stored=_stored, unread=unread)
    if runtime.dry_run:
        runtime.plan([f"write the network at t = {settings.t:g} to {settings.output}"])
        return None
    found = source.subject
    needed: Needed = "data" if source.has_batch_norm and settings.bn == "recompute" else "no data"
    data = load_data(found.about, settings, runtime, needed)
    positioned = Positioned(source, settings, data.fit if data else None)
    positioned.move_to(settings.t)
    state = weights.snapshot(source.model)
    about = found.arch.about(
        found.about,
        buffers=tuple(weights.not_parameters(found.model)),
        path=strict({"t": settings.t, "curve": source.path.kind, "bn": positioned.describe()}),
        provenance=strict(vars(made)),
    )
    if due:
        files.write_tensors(settings.output, {"epoch": 0, "model_state": state, "mcx": about.entry()})
    else:
        runtime.note(f"already complete: {settings.output}")
    parameters = weights.parameters_of(source.model, state)
    norm = math.sqrt(sum(float(p.double().square().sum()) for p in parameters.values()))
    return CurveExtractResult(
        t=settings.t,
        output=tilde(settings.output),
        num_params=weights.count(parameters),
        l2_norm=norm,
        bn=positioned.describe(),
        provenance=made,
    )


def _stored(output: Path) -> Any:
    """The provenance in a checkpoint; None in a file of any other origin."""
    with contextlib.suppress(InputError):
        return checkpoints.read(output).about.provenance
    return None
