"""`mcx convert`: the same network or curve in the layout of another program."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from modeconn_cli.engine.errors import InputError, OutputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, completing, subject, weights
from modeconn_cli.engine.networks.checkpoints import About, Checkpoint, garipov
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.paths import file
from modeconn_cli.engine.registry import is_import_path
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record, provenance, strict
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.convert import ConvertSettings

# The entries of weights and optimizer; `mcx` adds what the file says of itself to garipov's.
ENTRIES = {
    "mcx": (checkpoints.STATE, "optimizer_state"),
    "garipov": (checkpoints.STATE, "optimizer_state"),
    "lmc": ("model_state_dict", "optimizer_state_dict"),
}


@dataclass(frozen=True, kw_only=True)
class ConvertResult(Record):
    """`left_out` names what the layout has no place for."""

    schema: ClassVar[str] = "mcx.convert/1"

    checkpoint: str
    output: str
    from_layout: str
    layout: str
    kind: str
    num_tensors: int
    left_out: list[str]
    provenance: Provenance


@dataclass(frozen=True)
class Source:
    """What is converted: entries of weights in our own layout, the state dict of all others, and what else there is."""

    checkpoint: Checkpoint
    about: About
    own: Mapping[str, Any]
    state: Mapping[str, Any]
    kind: str
    lost: tuple[str, ...] = ()  # by the other layouts


def run(settings: ConvertSettings, runtime: Runtime) -> ConvertResult | None:
    """Read, and write the same tensors in another layout. What is left out is said."""
    files.refuse_inputs([settings.output], [settings.checkpoint])
    files.check_writable(settings.output.parent)
    source = _read(settings, runtime)
    settings = completing.completed(settings, source.about, settings.checkpoint)
    made = provenance(settings, "convert", runtime.opened)
    content, left_out = _content(source, settings, made)
    if runtime.dry_run:
        runtime.plan(
            [f"write the {source.kind} of {settings.checkpoint} to {settings.output} ({settings.layout})"]
        )
        return None
    if left_out:
        runtime.note(f"the layout '{settings.layout}' has no place for: {', '.join(left_out)}")
    if source.checkpoint.epoch is None and settings.layout != "bare":
        runtime.note("the epoch is not known: 0 is written")
    _write(content, settings, made, runtime)
    return ConvertResult(
        checkpoint=tilde(settings.checkpoint),
        output=tilde(settings.output),
        from_layout=source.checkpoint.layout,
        layout=settings.layout,
        kind=source.kind,
        num_tensors=sum(isinstance(value, Tensor) for value in source.state.values()),
        left_out=left_out,
        provenance=made,
    )


def _read(settings: ConvertSettings, runtime: Runtime) -> Source:
    found = checkpoints.read(
        settings.checkpoint, state_key=settings.state_key, allow_nonfinite=settings.allow_nonfinite
    )
    if found.is_curve or garipov.is_curve(found.state):
        return _curve(found, settings, runtime)
    for remark in found.remarks:
        runtime.note(remark)
    found = (
        recognised(found, settings, runtime) if settings.model is not None else _recognised(found, runtime)
    )
    about = found.about
    if settings.model is not None or (about.model is not None and not is_import_path(about.model)):
        opened = subject.open_networks([found], settings, runtime, "no data")
        (found,) = opened.checkpoints
        about = opened.arch.about(found.about, buffers=tuple(weights.not_parameters(opened.model)))
    else:
        found = _unwrapped(found, runtime)
        about = found.about
    return Source(found, about, {checkpoints.STATE: found.whole}, found.whole, "network")


def _unwrapped(found: Checkpoint, runtime: Runtime) -> Checkpoint:
    """Under the names of the network inside of wrappers, as far as the names alone tell."""
    plain = found.unwrapped()
    if plain.state.keys() != found.state.keys():
        parts = {part for name in found.state for part in name.split(".")} & {
            *weights.OF_WRAPPERS,
            weights.AVERAGED,
        }
        runtime.note(f"left out, as wrappers have added it: {', '.join(sorted(parts))}")
    return plain


def _recognised(found: Checkpoint, runtime: Runtime) -> Checkpoint:
    """With the network that its keys name; any network can be written, known or not."""
    with contextlib.suppress(SettingsError):
        return recognised(found, ConvertSettings(checked=True), runtime)
    return found


def _curve(found: Checkpoint, settings: ConvertSettings, runtime: Runtime) -> Source:
    curve = file.read(settings.checkpoint, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
    if settings.layout == "lmc":
        raise InputError(
            f"'{settings.checkpoint}' is a curve, and linear mode connectivity has networks only",
            subject.A_POINT,
        )
    own = file.content(curve)
    buffers = curve.buffers[0] if curve.buffers else {}
    last = curve.buffers[-1] if curve.buffers else {}
    differ = [name for name in last if name in buffers and not last[name].equal(buffers[name])]
    lost = (*(["the buffers of endpoint 1"] if differ else []), *curve.extra)
    state = garipov.joined(curve.kind, curve.points, buffers)
    return Source(found, curve.about, own, state, "curve", tuple(lost))


def _content(source: Source, settings: ConvertSettings, made: Provenance) -> tuple[dict[str, Any], list[str]]:
    """The content of the file, and the names of what is not in it."""
    read, optimizer = source.checkpoint, source.checkpoint.optimizer_state
    if read.is_curve and isinstance(found := read.content.get("optimizer_state"), Mapping):
        optimizer = dict(found)
    known = {"epoch", "mcx", read.layout.partition(".")[0], *checkpoints.OPTIMIZER_KEYS, *file.ENTRIES}
    left_out = [str(name) for name in read.content if name not in known]
    if optimizer and source.kind == "curve" and read.is_curve != (settings.layout == "mcx"):
        optimizer = None  # ours steps rows of points, theirs single tensors
        left_out.append("optimizer")
    if settings.layout == "mcx":
        about = replace(source.about, provenance=strict(vars(made)))
        return checkpoints.content(read.epoch, source.own, about, optimizer), left_out
    left_out += [*source.lost, *(["mcx"] if "mcx" in read.content else [])]
    if settings.layout == "bare":
        left_out += [*(["epoch"] if "epoch" in read.content else []), *(["optimizer"] if optimizer else [])]
        return dict(source.state), left_out
    weights_, steps = ENTRIES[settings.layout]
    stepped = {} if optimizer is None else {steps: optimizer}
    return {"epoch": read.epoch or 0, weights_: source.state, **stepped}, left_out


def _write(content: dict[str, Any], settings: ConvertSettings, made: Provenance, runtime: Runtime) -> None:
    """Raises OutputError for a file of any other origin: one of ours says it, others hold the same bytes."""
    output, data = settings.output, files.tensor_bytes(content)
    if settings.layout == "mcx":
        due = jobs.file_output(output, made, settings, stored=checkpoints.provenance_in)
    else:
        due = settings.overwrite or not files.occupied(output)
        if not due and not (output.is_file() and output.read_bytes() == data):
            raise OutputError(f"'{output}' exists", "use --overwrite to replace it")
    if due:
        files.atomic_write(output, data)
    else:
        runtime.note(f"already complete: {output}")
