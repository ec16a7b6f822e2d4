"""Result folders as pandas tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeconn_cli.api.words import spoken
from modeconn_cli.engine.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from modeconn_cli.api.commands import File

# Arrays of a run: `csl_<dataset>_run<r>_noise_<n>`, `loss_<dataset>_run<r>_epoch_<e>_noise_<n>`; the short names lack
# run and noise.
_OF_RUN = re.compile(r"(?P<head>.+)_run\d+(?P<epoch>_epoch_\d+)?_noise_[^_]+")
_SHORT = re.compile(r"(?P<head>(?:loss_grad|loss_ce|loss)_.+)(?P<epoch>_epoch_\d+)")


class Tables(dict[str, "pd.DataFrame"]):
    """Tables by their names; a KeyError says which there are."""

    def __init__(self, tables: Mapping[str, pd.DataFrame] | None = None) -> None:
        super().__init__(tables or {})

    def __missing__(self, name: str) -> pd.DataFrame:
        guess = did_you_mean(name, self)
        raise KeyError(f"no table '{name}'; there are {', '.join(self)}" + (f" ({guess})" if guess else ""))

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {len(table)} x {table.shape[1]}" for name, table in self.items())


def read(folder: File) -> Tables:
    """Every table of a result folder and of the folders in it, by its place: `curve`, `seed0/metrics`.

    A name is the path of the file in the folder without its ending. CSV files and logs (`metrics.jsonl`) are tables as
    they are. Of an .npz file arrays of one length are the columns of one table, and those of layers by positions a
    table each, `<file>/<array>`, with layers as columns and t as index. A JSON document is a table of one row; what it
    lists (layers, epochs, barriers) are tables of their own, `<file>/<entry>`, a row each. The arrays of a folder with
    a value per sample stand side by side in `samples`, whose index are the sample ids, under their names without data
    set, run and noise where that leaves no two alike: `csl`, `loss_epoch_3`. The pairs of `mcx lmc run` are `lines`: a
    row per position, with k1, k2, branch_seed and alpha, loss_train and loss_test in nats, error_train and error_test
    in percent.

    Raises InputError for a folder that is not there or holds none of these, and for a broken file.
    """
    place = Path(folder)
    with spoken():
        if not place.is_dir():
            raise InputError(f"'{place}' is not a folder", "name the output_dir of a command")
        found = Tables()
        for inner in _folders(place):
            prefix = "" if inner == place else f"{inner.relative_to(place).as_posix()}/"
            found.update((prefix + name, table) for name, table in _tables_in(inner).items())
        if not found:
            raise InputError(
                f"'{place}' holds no tables, nor do the folders in it",
                "name the output_dir of a command; tables are .csv, .jsonl, .json, .npz, and .npy beside sample ids",
            )
    return found


def _folders(place: Path) -> Iterator[Path]:
    """The folder and those in it, without hidden ones: records of jobs are no results."""
    for inner, below, _ in os.walk(place):
        below[:] = sorted((name for name in below if not name.startswith(".")), key=natural)
        yield Path(inner)


def natural(name: str) -> list[tuple[int, str]]:
    """The order of names in which epoch 2 comes before epoch 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _tables_in(place: Path) -> dict[str, pd.DataFrame]:
    """The tables of the files of one folder."""
    import pandas as pd

    from modeconn_cli.engine.results import columns, strict_json

    found: dict[str, pd.DataFrame] = {}
    pairs: list[Path] = []
    for path in sorted(place.iterdir(), key=lambda path: natural(path.name)):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".csv":
            found[path.stem] = columns.read_csv(path)
        elif path.suffix == ".jsonl":
            lines = [
                strict_json.parsed(line, path) for line in path.read_bytes().splitlines() if line.strip()
            ]
            found[path.stem] = pd.json_normalize(lines)
        elif path.suffix == ".npz":
            found |= _arrays(path)
        elif path.suffix == ".json" and re.search(r"_k1_\d+_k2_\d+$", path.stem):
            pairs.append(path)
        elif path.suffix == ".json":
            found |= _document(path.stem, strict_json.parsed(path.read_bytes(), path))
    if pairs:
        found["lines"] = _lines(pairs)
    samples = _samples(place)
    if samples is not None:
        found["samples"] = samples
    return found


def _document(name: str, document: Any) -> dict[str, pd.DataFrame]:
    """A JSON document as a row, and its lists of things as tables of their own."""
    import pandas as pd

    if (listed := _listed(document)) is not None:
        return {name: listed}
    if not isinstance(document, Mapping):
        return {}
    row, inner = dict(document), dict[str, pd.DataFrame]()
    if isinstance(row.get("alphas"), list):
        count = len(row["alphas"])
        line = {key: row.pop(key) for key, value in document.items() if _is_series(value, count)}
        inner[f"{name}/line"] = pd.DataFrame(line)
    for key, value in document.items():
        table = _listed(value)
        if (
            table is None
            and isinstance(value, Mapping)
            and any(isinstance(v, Mapping) for v in value.values())
        ):
            table = pd.json_normalize(dict(value))
        if table is not None:
            inner[f"{name}/{key}"] = table
            del row[key]
    return {name: pd.json_normalize(row), **inner}


def _is_series(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and not any(isinstance(v, dict) for v in value)


def _listed(value: Any) -> pd.DataFrame | None:
    """A row per entry of a list of mappings, or of a mapping of mappings, whose keys become the index."""
    import pandas as pd

    if not isinstance(value, list | Mapping) or not value:
        return None
    rows = value if isinstance(value, list) else list(value.values())
    if not all(isinstance(row, Mapping) for row in rows):
        return None
    if isinstance(value, list):
        return pd.json_normalize(rows)
    keys = list(value)
    index = [int(key) for key in keys] if all(key.isdecimal() for key in keys) else keys
    return pd.json_normalize(rows).set_axis(index, axis=0)


def _lines(paths: Sequence[Path]) -> pd.DataFrame:
    """The lines of pairs, of `mcx lmc run` or of the original study, below each other."""
    import pandas as pd

    from modeconn_cli.engine.commands.lmc import pairs

    return pd.concat([pairs.frame(pairs.read(path)) for path in paths], ignore_index=True)


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
    """A two-dimensional array with the names and positions that stand beside it, whichever axis they lie on.

    Where there are as many positions as layers, positions are numbers along the rows, layers words along the columns.
    """
    import pandas as pd

    def along(axis: int, words: bool) -> np.ndarray | None:
        fit = [other for other in beside.values() if other.shape == (array.shape[axis],)]
        return min(fit, key=lambda other: (other.dtype.kind in "US") != words, default=None)

    return pd.DataFrame(array, index=along(0, words=False), columns=along(1, words=True))


def _samples(folder: Path) -> pd.DataFrame | None:
    """Arrays of a value per sample beside the ids of all; an array with ids of its own epoch is joined by them."""
    import pandas as pd

    from modeconn_cli.engine.results import arrays

    out: list[pd.Series[float]] = []
    for path in sorted(folder.glob("*.npy"), key=lambda path: natural(path.stem)):
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
    if not out:
        return None
    table = pd.concat(out, axis=1)
    return table.rename(columns=_short([str(name) for name in table]))


def _short(names: Sequence[str]) -> dict[str, str]:
    """Names of arrays without data set, run and noise, as far as no two become alike.

    The data set is what the names before the run all end in, word by word.
    """
    found = {name: match for name in names if (match := _OF_RUN.fullmatch(name) or _SHORT.fullmatch(name))}
    if not found:
        return {}
    heads = [match["head"].split("_")[1:] for match in found.values()]  # the first word is what was measured
    common = 0
    while all(len(head) > common for head in heads) and len({head[-1 - common] for head in heads}) == 1:
        common += 1
    short = {
        name: "_".join(match["head"].split("_")[: -common or None]) + (match["epoch"] or "")
        for name, match in found.items()
    }
    return short if len({*short.values(), *names} - {*found}) == len(names) else {}
