"""The table of the samples that a score was taken of: which file an id is, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modeconn_cli.engine.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

STEM = "samples"
NAME = f"{STEM}.csv"
LABEL, CLASS_NAME, FILE, SPLIT = "label", "class_name", "file", "split"
COLUMNS = ("sample_id", LABEL, CLASS_NAME, FILE, SPLIT)


@dataclass(frozen=True)
class Listing:
    """What tables of samples say: `labels` (float64), `files` by sample id, None where none says; class id -> name."""

    labels: pd.Series | None = None
    files: pd.Series | None = None
    names: dict[int, str] | None = None
    paths: tuple[Path, ...] = ()


def read(paths: list[Path]) -> Listing:
    """The tables that are there, the first that names a sample speaks for it. Raises InputError for what is none."""
    import pandas as pd  # not needed by those who write the tables

    tables = {path: _read(path) for path in dict.fromkeys(paths) if path.exists()}
    if not tables:
        return Listing()
    whole = pd.concat(list(tables.values()))
    whole = whole[~whole.index.duplicated()].sort_index()
    labels, of_files = whole[LABEL].dropna(), whole[FILE].dropna()
    named = whole[[LABEL, CLASS_NAME]].dropna().drop_duplicates(LABEL)
    return Listing(
        labels if len(labels) else None,
        of_files if len(of_files) else None,
        dict(zip(named[LABEL].astype(int).tolist(), named[CLASS_NAME].tolist(), strict=True)) or None,
        tuple(tables),
    )


def _read(path: Path) -> pd.DataFrame:
    from modeconn_cli.engine.results import columns

    found = columns.read_samples(path)
    lacking = [name for name in (LABEL, CLASS_NAME, FILE) if name not in found]
    if lacking:
        raise InputError(f"'{path}' has no column {' and none '.join(lacking)}", "score the samples again")
    found[LABEL] = columns.whole(found[LABEL], path)
    for name in (CLASS_NAME, FILE):
        found[name] = found[name].map(str, na_action="ignore")
    return found[[LABEL, CLASS_NAME, FILE]]
