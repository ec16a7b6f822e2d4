"""`mcx l2` of several checkpoints: each file is read once; a broken one spoils its own pairs only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from modeconn_cli.engine import distances, files, jobs, l2, records, weights
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.l2 import L2Settings

SUMMARY_TEXT, SUMMARY_CSV = "summary.txt", "summary.csv"
COLUMNS = ("pair", "total_l2", "normalized_l2", "relative", "total_params", "status")


@dataclass(frozen=True)
class PairDistance:
    """One row of the summary; figures are None where a file could not be used, and `status` says why."""

    pair: str
    total_l2: float | None
    normalized_l2: float | None
    relative: float | None
    total_params: int | None
    status: str


@dataclass(frozen=True, kw_only=True)
class L2ManyResult(Record):
    schema: ClassVar[str] = "mcx.l2_many/1"

    checkpoints: dict[str, str]
    pairs: tuple[PairDistance, ...]
    include_buffers: bool
    output_dir: str | None


def run(settings: L2Settings, runtime: Runtime) -> L2ManyResult | None:
    """Measure the first checkpoint against all others, or all pairs. Raises InputError if a file failed."""
    if settings.output is not None:
        raise SettingsError("--output is for one pair", "use --output-dir for several")
    named = l2.given(settings)
    wanted = list(itertools.combinations(named, 2))
    if settings.pairs == "first":
        wanted = wanted[: len(named) - 1]
    if runtime.dry_run:
        runtime.plan([f"measure {len(wanted)} distances between {len(named)} checkpoints"])
        return None
    if settings.output_dir is not None:
        files.check_writable(settings.output_dir)
    loaded: dict[str, Mapping[str, Tensor] | InputError] = {}
    for done, (label, path) in enumerate(named.items(), start=1):
        try:
            loaded[label] = l2.read_weights(path, settings, runtime)
        except InputError as error:
            loaded[label] = error
        runtime.progress(done, len(named), checkpoint=label)
    results = {pair: _pair(pair, named, loaded, settings) for pair in wanted}
    rows = tuple(_row(pair, result) for pair, result in results.items())
    whole = L2ManyResult(
        checkpoints={label: tilde(path) for label, path in named.items()},
        pairs=rows,
        include_buffers=settings.include_buffers,
        output_dir=None if settings.output_dir is None else tilde(settings.output_dir),
    )
    if settings.output_dir is not None:
        _write(settings.output_dir, settings, results, rows, runtime)
    failed = [row.status for row in rows if row.status != "ok"]
    if failed:
        count = f"{len(failed)} of {len(rows)} pairs could not be measured"
        raise InputError(f"{count}: {failed[0]}", result=whole)
    return whole


def _pair(
    pair: tuple[str, str],
    named: Mapping[str, Path],
    loaded: Mapping[str, Mapping[str, Tensor] | InputError],
    settings: L2Settings,
) -> l2.L2Result | InputError:
    left, right = (loaded[label] for label in pair)
    for side in (left, right):
        if isinstance(side, InputError):
            return side
    assert not isinstance(left, InputError)
    assert not isinstance(right, InputError)
    first, second = (named[label] for label in pair)
    try:
        weights.check_alike(left, right, str(first), str(second))
    except InputError as error:
        return error
    return l2.L2Result(
        checkpoint1=tilde(first),
        checkpoint2=tilde(second),
        distance=distances.l2(left, right),
        top_k=settings.show_top_k,
        order=settings.order,
        include_buffers=settings.include_buffers,
        provenance=records.provenance(settings, "l2", [first, second]),
    )


def _row(pair: tuple[str, str], result: l2.L2Result | InputError) -> PairDistance:
    name = "-".join(pair)
    if isinstance(result, InputError):
        return PairDistance(name, None, None, None, None, result.message)
    d = result.distance
    return PairDistance(name, d.total_l2, d.normalized_total_l2, d.relative_total, d.total_params, "ok")


def _write(
    folder: Path,
    settings: L2Settings,
    results: Mapping[tuple[str, str], l2.L2Result | InputError],
    rows: tuple[PairDistance, ...],
    runtime: Runtime,
) -> None:
    """One JSON file per pair, and the summaries last. Pairs that the same command made stay as they are."""
    due = {}
    for pair, result in results.items():
        if not isinstance(result, InputError):
            path = folder / f"{'-'.join(pair)}.json"
            if jobs.file_output(path, result.provenance, settings.overwrite):
                due[path] = result
    for path, result in due.items():
        files.write_json(path, result.document())
    if not due:
        runtime.note(f"already complete: {folder}")
    files.write_text(folder / SUMMARY_TEXT, summary_text(rows))
    files.write_text(folder / SUMMARY_CSV, summary_csv(rows))


def summary_text(rows: tuple[PairDistance, ...]) -> str:
    """The comparison table of the documents: a line per pair in input order, full precision in the CSV."""
    cells = [COLUMNS] + [
        (
            row.pair,
            *("n/a" if value is None else f"{value:.6f}" for value in (row.total_l2, row.normalized_l2)),
            "n/a" if row.relative is None else f"{100 * row.relative:.4f}%",
            "n/a" if row.total_params is None else f"{row.total_params:,}",
            row.status,
        )
        for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, len(COLUMNS) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines) + "\n"


def summary_csv(rows: tuple[PairDistance, ...]) -> str:
    return files.csv_text(COLUMNS, ([getattr(row, name) for name in COLUMNS] for row in rows))
