"""Result folders as pandas tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modeconn_cli.engine.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from modeconn_cli.api.commands import File


def read(folder: File) -> dict[str, pd.DataFrame]:
    """Every table of a result folder, by the name of its file without ending.

    CSV files and logs (`metrics.jsonl`) are tables as they are; of an .npz file arrays of one length are the columns of
    one table, and those of layers by positions a table each, `<file>/<array>`, with layers as columns and t as index;
    arrays with a value per sample stand side by side in `samples`, whose index are the sample ids; JSON documents are
    tables of one row. Raises InputError for a folder that is not there or holds none of these.
    """
    import pandas as pd

    from modeconn_cli.engine.results import files

    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"'{place}' is not a folder")
    found: dict[str, pd.DataFrame] = {}
    for path in sorted(place.iterdir()):
        if path.suffix == ".csv":
            found[path.stem] = pd.read_csv(path)
        elif path.suffix == ".jsonl":
            lines = [files.parsed(line, path) for line in path.read_bytes().splitlines() if line.strip()]
            found[path.stem] = pd.json_normalize(lines)
        elif path.suffix == ".npz":
            found |= _arrays(path)
        elif path.suffix == ".json":
            document = files.parsed(path.read_bytes(), path)
            if isinstance(document, dict):
                found[path.stem] = pd.json_normalize(document)
    samples = _samples(place)
    if samples is not None:
        found["samples"] = samples
    if not found:
        raise InputError(f"'{place}' holds no tables", "name the --output-dir of a command")
    return found


def _arrays(path: Path) -> dict[str, pd.DataFrame]:
    import pandas as pd

    from modeconn_cli.engine.results import arrays

    held = arrays.read_npz(path)
    lengths = {len(array) for array in held.values() if array.ndim == 1}
    out: dict[str, pd.DataFrame] = {}
    for length in sorted(lengths):
        columns = {name: array for name, array in held.items() if array.ndim == 1 and len(array) == length}
        out[path.stem if len(columns) > 1 or len(lengths) == 1 else f"{path.stem}/{next(iter(columns))}"] = (
            pd.DataFrame(columns)
        )
    for name, array in held.items():
        if array.ndim == 2:
            out[f"{path.stem}/{name}"] = _by_layer(array, held)
    return out


def _by_layer(array: np.ndarray, beside: dict[str, np.ndarray]) -> pd.DataFrame:
    """A two-dimensional array with the names and positions that stand beside it, whichever axis they lie on."""
    import pandas as pd

    rows, columns = (
        next((other for other in beside.values() if other.ndim == 1 and len(other) == size), None)
        for size in array.shape
    )
    return pd.DataFrame(array, index=rows, columns=columns)


def _samples(folder: Path) -> pd.DataFrame | None:
    """Arrays of a value per sample beside the ids of all; an array with ids of its own epoch is joined by them."""
    import pandas as pd

    from modeconn_cli.engine.results import arrays

    out: list[pd.Series[float]] = []
    for path in sorted(folder.glob("*.npy")):
        epoch = path.stem.rpartition("_epoch_")[2]
        ids = next(
            (
                place
                for name in (f"sample_ids_epoch_{epoch}.npy", "sample_ids.npy")
                if (place := folder / name).exists()
            ),
            None,
        )
        if ids is None or path.stem.startswith("sample_ids"):
            continue
        known = arrays.read_ids(ids)
        values = arrays.read(path, kinds="fiub")
        if values.shape == known.shape:
            out.append(pd.Series(values, index=pd.Index(known, name="sample_id"), name=path.stem))
    return pd.concat(out, axis=1) if out else None
