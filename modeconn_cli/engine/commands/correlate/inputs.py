"""The files that the settings name: found before anything is read, then read as sources in the order of their ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from modeconn_cli.engine.commands.correlate import described, further, join, sources
from modeconn_cli.engine.commands.correlate.sources import PER_EPOCH, Source
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import tracking_file
from modeconn_cli.engine.results.listing import Listing
from modeconn_cli.engine.results.memo_scores import MEMO
from modeconn_cli.engine.settings.correlate import CorrelateSettings

# Of mcx csl aggregate too, whose names begin as that of the learning time does.
NOT_LT = tuple(f"{name}_" for name in ("lt_first_epoch", "lt_first_epoch_sq", "lt_stays"))


@dataclass(frozen=True)
class Inputs:
    """The files that are meant; `lt` may come from the folder of `csl`, `dormant`: epoch -> file."""

    csl: Path | None
    lt: Path | None
    dormant: dict[int, Path]


def find(settings: CorrelateSettings) -> Inputs:
    """Look into the folders."""
    csl = settings.csl and sources.only(settings.csl, "csl_*.npy", ("csl_ce_", f"{PER_EPOCH}_"))
    lt = settings.lt and sources.only(settings.lt, "lt_*.npy", NOT_LT)
    if lt is None and csl is not None and csl != settings.csl:  # csl is of a folder
        beside = csl.with_name("lt_" + csl.name.removeprefix("csl_"))
        lt = beside if beside.exists() else None
    return Inputs(csl, lt, {} if settings.dormant is None else sources.dormant_files(settings.dormant))


def read(settings: CorrelateSettings, inputs: Inputs, runtime: Runtime) -> tuple[list[Source], Listing]:
    """Every source, in the order of its ids, and what is known of the samples; names of columns are unique."""
    assume = settings.assume_index
    read: list[Source] = []
    if settings.tracking is not None:
        read.append(sources.tracking(settings.tracking))
        every = tracking_file.every(settings.tracking)
        if every > 1:
            runtime.warn(
                f"only one epoch of {every} was tracked: times_seen and the last exposure are of those"
            )
    read += _of_losses(settings, inputs)
    if settings.curvature is not None:
        read.append(sources.curvature(settings.curvature, assume))
    if inputs.dormant:
        last = max(inputs.dormant)
        if len(inputs.dormant) > 1:
            runtime.note(f"dormancy of epoch {last} is joined, the last of {len(inputs.dormant)}")
        read.append(sources.dormant(inputs.dormant[last], assume))
    if settings.memo is not None:
        read = [_without_memo(source, runtime) for source in read]
        read.append(sources.memo(settings.memo, assume))
    known, taken = described.beside(read), {*join.RESERVED, *(name for each in read for name in each.metrics)}
    for path in settings.with_files:
        read.append(further.metrics(path, taken, assume, runtime))
        taken |= set(read[-1].metrics)
    if settings.flags is not None:
        read.append(further.flags(settings.flags, taken, assume, known))
    if not any(source.metrics for source in read):
        raise SettingsError(
            "no source gives a metric: the tracking file has no memo scores",
            "pass --csl, --memo or another one",
        )
    return read, known


def _of_losses(settings: CorrelateSettings, inputs: Inputs) -> list[Source]:
    """What mcx csl aggregate has made: arrays first, and the table of scores without them."""
    read, assume = [], settings.assume_index
    if inputs.csl is not None:
        read.append(sources.csl(inputs.csl, assume))
    if inputs.lt is not None:
        read.append(sources.array("lt", inputs.lt, "lt", ("csl",), assume))
    if settings.scores is not None:
        read.append(sources.scores(settings.scores, {name for each in read for name in each.metrics}, assume))
    return read


def _without_memo(source: Source, runtime: Runtime) -> Source:
    """--memo is the word of the user, the tracking file a copy of what the run was given."""
    if MEMO not in source.metrics:
        return source
    runtime.note(f"memo_score is taken from --memo, not from '{source.path}'")
    metrics = tuple(name for name in source.metrics if name != MEMO)
    return replace(source, table=source.table.drop(columns=MEMO), metrics=metrics)


def assumed(read: list[Source], runtime: Runtime) -> list[str]:
    """The names of the sources whose ids are positions; they must be equally long, or InputError."""
    those = [source for source in read if source.assumed]
    if len({len(source.table) for source in those}) > 1:
        shown = ", ".join(f"'{source.path}' {len(source.table):,}" for source in those)
        raise InputError(f"arrays without ids must be equally long for --assume-index: {shown}")
    if those:
        shown = ", ".join(source.name for source in those)
        runtime.note(f"position stands for the sample id in: {shown} (--assume-index)")
    return [source.name for source in those]
