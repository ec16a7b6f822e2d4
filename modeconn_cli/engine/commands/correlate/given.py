"""The sources that the settings name: found before anything is read, then read and put in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from modeconn_cli.engine.commands.correlate import extras, sources, table, tracking
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.settings.correlate import CorrelateSettings
from modeconn_cli.engine.training import memo_scores


@dataclass(frozen=True)
class Found:
    """The files that are meant; `lt` may come from the folder of `csl`, `dormant`: epoch -> file."""

    csl: Path | None
    lt: Path | None
    dormant: dict[int, Path]


def find(settings: CorrelateSettings) -> Found:
    """Look into the folders."""
    csl = None if settings.csl is None else sources.csl_file(settings.csl)
    lt = None if settings.lt is None else sources.lt_file(settings.lt)
    if lt is None and csl is not None and settings.csl is not None and settings.csl.is_dir():
        beside = csl.with_name("lt_" + csl.name.removeprefix("csl_"))
        lt = beside if beside.exists() else None
    return Found(csl, lt, {} if settings.dormant is None else sources.dormant_files(settings.dormant))


def read(settings: CorrelateSettings, found: Found, runtime: Runtime) -> list[Source]:
    """Every source, in the order of its ids; names of columns are unique."""
    assume = settings.assume_index
    out: list[Source] = []
    if settings.tracking is not None:
        out.append(tracking.read(settings.tracking))
        every = tracking.every(settings.tracking)
        if every > 1:
            runtime.warn(
                f"only one epoch of {every} was tracked: times_seen and the last exposure are of those"
            )
    if found.csl is not None:
        out.append(sources.csl(found.csl, assume))
    if found.lt is not None:
        out.append(sources.array("lt", found.lt, "lt", ("csl",), assume))
    if settings.curvature is not None:
        out.append(sources.curvature(settings.curvature, assume))
    if found.dormant:
        last = max(found.dormant)
        if len(found.dormant) > 1:
            runtime.note(f"dormancy of epoch {last} is joined, the last of {len(found.dormant)}")
        out.append(sources.dormant(last, found.dormant[last], assume))
    if settings.memo is not None:
        out = _without_memo(out, runtime)
        out.append(extras.memo(settings.memo, assume))
    taken = {*table.RESERVED}
    for path in settings.with_files:
        out.append(extras.further(path, taken, assume, runtime))
        taken |= set(out[-1].metrics)
    if settings.flags is not None:
        out.append(extras.flags(settings.flags, taken, assume))
    if not any(source.metrics for source in out):
        raise SettingsError(
            "no source gives a metric: the tracking file has no memo scores",
            "pass --csl, --memo or another one",
        )
    return [sources.in_order(source) for source in out]


def _without_memo(given: list[Source], runtime: Runtime) -> list[Source]:
    """--memo is the word of the user, the tracking file a copy of what the run was given."""
    out = []
    for source in given:
        if memo_scores.MEMO in source.metrics:
            runtime.note(f"memo_score is taken from --memo, not from '{source.path}'")
        metrics = {name: column for name, column in source.metrics.items() if name != memo_scores.MEMO}
        out.append(replace(source, metrics=metrics))
    return out
