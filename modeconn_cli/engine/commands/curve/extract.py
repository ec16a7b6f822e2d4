"""`mcx curve extract`: the network at one position of a path, as an ordinary checkpoint."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.networks.subject import Needed, load_data
from modeconn_cli.engine.paths.statistics import Positioned, open_path
from modeconn_cli.engine.results import files, records
from modeconn_cli.engine.results.records import Record, provenance, strict
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
    provenance: dict[str, Any]


def run(settings: CurveExtractSettings, runtime: Runtime) -> CurveExtractResult | None:
    """Write w(t) with the batch norm statistics that `--bn` asks for."""
    if settings.t is None:
        raise SettingsError("no position", "pass --t between 0 and 1")
    if settings.output is None:
        raise SettingsError("no file for the network", "pass --output FILE.pt")
    source = open_path(settings, runtime, "no data")
    made = provenance(settings, "curve extract", source.inputs)
    files.refuse_inputs([settings.output], source.inputs)
    files.check_writable(settings.output.parent)
    due = settings.overwrite or not _made_alike(settings.output, made)
    if due:
        files.refuse_existing(settings.output, settings.overwrite)
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
        provenance=strict(made),
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


def _made_alike(output: Path, made: dict[str, Any]) -> bool:
    """Whether the same command with the same settings and inputs wrote the file."""
    if not output.exists():
        return False
    with contextlib.suppress(InputError):
        return records.made_alike(checkpoints.read(output).about.provenance, made)
    return False
