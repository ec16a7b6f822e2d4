"""What the tables of samples beside the sources say: classes, their names, and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modeconn_cli.engine.commands.correlate.join import CLASS, Joined
from modeconn_cli.engine.commands.correlate.sources import EPOCH_FOLDER, JOBS, Source
from modeconn_cli.engine.results import listing, manifest
from modeconn_cli.engine.results.listing import Listing

_SCORED = {
    "csl": "csl_",
    "lt": "lt_",
    "scores": "scores_",
    "curvature": "",
    "dormant": "",
}  # source -> how its files' names begin


def beside(sources: Sequence[Source]) -> Listing:
    """The tables of samples that the commands have left beside the arrays which are joined.

    Raises InputError for one that is not as its command left it.
    """
    tables = [_table_of(source.path, _SCORED[source.name]) for source in sources if source.name in _SCORED]
    manifest.check(tables, JOBS)
    return listing.read(tables)


def _table_of(path: Path, kind: str) -> Path:
    """The table of the samples of an array: of its run, or the only one of its folder."""
    if kind:
        return path.with_name(f"{listing.STEM}_{path.stem.removeprefix(kind)}.csv")
    folder = path.parent.parent if EPOCH_FOLDER.fullmatch(path.parent.name) else path.parent
    return folder / listing.NAME


def with_classes(joined: Joined, known: Listing) -> Joined:
    """The samples with the classes of their tables, where no source says any."""
    if CLASS in joined.table or known.labels is None:
        return joined
    table = joined.table.copy(deep=False)
    table.insert(0, CLASS, known.labels.reindex(table.index))
    return replace(joined, table=table)
