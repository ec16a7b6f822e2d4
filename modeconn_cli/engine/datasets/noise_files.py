"""Noisy labels that others have made: files of the CIFAR-N layout (Wei et al. 2022, arXiv:2110.12088), arrays, and our
own `label_noise.csv`. What is in them is read as numbers, never as Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeconn_cli.engine import exact, names
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.results import arrays
from modeconn_cli.engine.results.parsing import opened, parsing

CLEAN = "clean_label"


@dataclass(frozen=True)
class NoisyLabels:
    """Ids, labels to be trained on and, where the file says them, the clean ones, int64 [n] each."""

    ids: np.ndarray
    trained: np.ndarray
    clean: np.ndarray | None


def read(path: Path, ids: np.ndarray) -> NoisyLabels:
    """The labels of a file for a training file with these ids, int64 [N].

    A .csv names its samples: `sample_id,trained`, maybe `clean`. Others have a label per sample in the order of the
    training file: a .npy one array, .npz and .pt several by name, of which `FILE::worse_label` chooses one and
    `clean_label` is compared. Raises InputError for a file that is none or of other samples, SettingsError where it
    does not say which labels are meant.
    """
    file, entry = names.file_and_entry(path)
    if file.suffix == ".csv":
        return _of_table(file)
    found = {None: arrays.read(file, kinds="iu")} if file.suffix == ".npy" else _several(file)
    trained = _chosen(found, entry, file)
    clean = None if CLEAN not in found else exact.labels(found[CLEAN], f"'{file}'").numbers
    for each in (trained, clean):
        if each is not None and len(each) != len(ids):
            raise InputError(f"'{file}' has {len(each):,} labels, the training file {len(ids):,} images")
    if not np.array_equal(np.sort(ids), np.arange(len(ids))):
        raise InputError(
            f"'{file}' has labels by position, and the ids of the data set are not 0 to {len(ids) - 1}",
            "name the samples: a .csv of sample_id,trained",
        )
    return NoisyLabels(np.arange(len(ids)), trained, clean)


def _of_table(path: Path) -> NoisyLabels:
    from modeconn_cli.engine.results import columns  # pandas, which takes half a second

    table = columns.read_samples(path)
    if "trained" not in table:
        raise InputError(f"'{path}' has no column 'trained'", f"found: {', '.join(map(str, table.columns))}")
    trained, clean = (
        exact.labels(table[name].to_numpy(), f"'{path}'").numbers if name in table else None
        for name in ("trained", "clean")
    )
    assert trained is not None
    return NoisyLabels(table.index.to_numpy(), trained, clean)


def _several(path: Path) -> Mapping[Any, Any]:
    """The labels of a file by name."""
    if path.suffix == ".npz":
        return arrays.read_npz(path)
    if path.suffix not in (".pt", ".pth"):
        raise SettingsError(f"'{path}' is no .csv, .npy, .npz or .pt", "save the labels as one of these")
    convert = (
        "where you trust it: python -c \"import numpy, torch; numpy.savez('labels.npz', "
        f"**torch.load('{path.name}', weights_only=False))\""
    )
    with opened(path) as stream, parsing(path, ".pt file of tensors and lists", convert):
        found = torch.load(stream, weights_only=True, map_location="cpu")  # noqa: TID251 - labels
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"'{path}' holds no labels by name", "save {'clean_label': …, 'worse_label': …}")
    return found


def _chosen(found: Mapping[Any, Any], entry: str | None, path: Path) -> np.ndarray:
    """The labels that are meant. Raises SettingsError where several are there and none is chosen."""
    noisy = [name for name in found if name != CLEAN]
    if entry is None and len(noisy) != 1:
        raise SettingsError(
            f"'{path}' holds several labels: {', '.join(map(str, noisy))}", f"pass --noise-file {path}::{noisy[0]}"
            if noisy else "none but the clean ones"
        )  # fmt: skip
    name = noisy[0] if entry is None else entry
    if name not in found:
        raise SettingsError(f"'{path}' has no '{name}'", f"found: {', '.join(map(str, found))}")
    return exact.labels(found[name], f"'{path}'").numbers
