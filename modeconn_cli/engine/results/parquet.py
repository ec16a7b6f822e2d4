"""The one writer of Parquet, which takes pyarrow: the extra `parquet`."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from modeconn_cli.engine.results import files


def available() -> bool:
    """Whether pyarrow is installed; it is not imported, which takes a second."""
    return importlib.util.find_spec("pyarrow") is not None


def write(path: Path, pieces: Callable[[], Iterable[pd.DataFrame]]) -> None:
    """A table from pieces with the same columns, one after the other; of which there is at least one."""
    import pyarrow as pa
    from pyarrow import parquet

    def whole(stream: Any) -> None:
        left = (pa.Table.from_pandas(piece, preserve_index=False) for piece in pieces())
        first = next(left)
        with parquet.ParquetWriter(pa.PythonFile(stream, mode="w"), first.schema) as writer:
            for table in itertools.chain([first], left):
                writer.write_table(table)

    files.atomic_write(path, whole)
