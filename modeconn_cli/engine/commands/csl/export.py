"""`mcx csl aggregate --export`: the files that other tools read, in their definitions, as far as the columns hold them.

aum's package           full_aum_records, a record per epoch and sample whose classes are empty where nobody knows them,
                        and aum_values
dataset cartography     td_metrics, as its scripts make them: correctness is a count of epochs, forgetfulness 1000 where
                        a sample is never learnt. Its training_dynamics need the logits of all classes
Feldman & Zhang         memorization by tr_idx, where there are memorization scores
cleanlab                labels, and the label quality of the last epoch as `get_label_quality_scores` defines it by
                        self_confidence, p_y, and normalized_margin, (p_y − max_{j≠y} p_j + 1) / 2; pred_probs where
                        the probabilities of all classes are there
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine.commands.csl.naming import RunName
from modeconn_cli.engine.commands.csl.table import Given
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.columns import ID
from modeconn_cli.engine.results.memo_scores import MEMO
from modeconn_cli.engine.samples.folds import Total
from modeconn_cli.engine.samples.foreign.cartography import NEVER

RECORDS, VALUES = ("full_aum_records", ".csv"), ("aum_values", ".csv")
METRICS, MEMORIZATION = ("td_metrics", ".jsonl"), ("memorization", ".npz")
LABELS, QUALITY, PROBS = ("labels", ".npy"), ("label_quality", ".csv"), ("pred_probs", ".npy")
STEMS = {
    "aum": (RECORDS, VALUES),
    "cartography": (METRICS,),
    "feldman": (MEMORIZATION,),
    "cleanlab": (LABELS, QUALITY, PROBS),
}
OPTIONAL = PROBS  # the only one that a finished job may lack
NEEDS = {
    "aum": ("label_logit", "other_logit"),
    "cartography": ("label_prob", "correct"),
    "cleanlab": ("label_prob",),
}
NOTES = {
    "aum": "aum's records: the class of the largest other logit is not kept, its cells are empty",
    "cartography": f"cartography's metrics: correctness counts epochs, forgetfulness is {NEVER} for never learnt; its "
    "training_dynamics take the logits of all classes",
    "cleanlab": "cleanlab's label quality is of the last epoch, of one network that was trained on these labels",
}
_METRICS = ("confidence", "variability", "correctness", "forgetting")


@dataclass(frozen=True)
class Exported:
    """What is written: the columns of `found`, its `labels`, int64 [N], the scores `values`, [N] each, and how many
    `epochs` [N] a sample was seen at. `probs` gives the probabilities [N, K] of the last epoch, where they are known.
    """

    found: Given
    labels: np.ndarray | None
    values: dict[str, np.ndarray]
    epochs: np.ndarray
    probs: Callable[[], np.ndarray] | None = None


def names(kinds: Iterable[str], named: RunName) -> list[str]:
    """The names of the files of these kinds."""
    return [named.aggregated(*stem) for kind in kinds for stem in STEMS[kind]]


def certain(kinds: Iterable[str], named: RunName) -> list[str]:
    """Those that are always written."""
    return [each for each in names(kinds, named) if each != named.aggregated(*OPTIONAL)]


def check(kinds: Iterable[str], found: Given, known: Iterable[str], labels: np.ndarray | None) -> None:
    """Raises InputError for what cannot be written of these columns, and says why."""
    for kind in kinds:
        lacking = set(NEEDS.get(kind, ())) - set(found.holds)
        if not found.named_ids:
            raise InputError(
                f"--export {kind} names samples by their ids, which are not known", "pass --assume-index"
            )
        if lacking:
            raise InputError(f"--export {kind} needs {', '.join(sorted(lacking))}: {found.lacks}")
        if kind == "feldman" and MEMO not in known:
            raise InputError(
                "--export feldman needs memorization scores, which are no score of one run",
                "--from FILE with such scores",
            )
        if kind == "cleanlab" and labels is None:
            raise InputError(
                "--export cleanlab needs the labels, which no file beside the columns says",
                "mcx csl score writes them into samples_*.csv",
            )


def check_scores(kinds: Iterable[str], absent: Mapping[str, str]) -> None:
    """Raises InputError for scores that a kind is made of and that are `absent`, each with its reason."""
    lacking = [name for name in _METRICS if name in absent and "cartography" in kinds]
    if lacking:
        raise InputError(f"--export cartography needs {', '.join(lacking)}: {absent[lacking[0]]}")


def write(
    kinds: Sequence[str], folder: Path, named: RunName, exported: Exported, note: Callable[[str], None]
) -> None:
    """Write the files of these kinds, and say what is to be known of them."""
    for kind in kinds:
        if kind in NOTES:
            note(NOTES[kind])
        paths = {stem: folder / named.aggregated(*stem) for stem in STEMS[kind]}
        if kind == "aum":
            _aum(paths[RECORDS], paths[VALUES], exported)
        elif kind == "cartography":
            _cartography(paths[METRICS], exported)
        elif kind == "feldman":
            order = np.argsort(exported.found.ids)
            scores = {"memorization": exported.values[MEMO][order], "tr_idx": exported.found.ids[order]}
            files.write_arrays(paths[MEMORIZATION], scores)
        else:
            _cleanlab(paths[LABELS], paths[QUALITY], paths[PROBS], exported)


def _aum(records: Path, values: Path, exported: Exported) -> None:
    """Records in the order of the epochs, and values, the largest first, as the package writes them."""
    found, order = exported.found, np.argsort(exported.found.ids)
    ids = found.ids[order].astype(object)
    empty = np.full(found.count, "", dtype=object)
    classes = empty if exported.labels is None else exported.labels[order].astype(str).astype(object)
    total = Total(found.count)

    def pieces() -> Iterator[np.ndarray]:
        nonlocal total
        total, seen = Total(found.count), np.ones(found.count, dtype=bool)
        for k, columns in enumerate(found.columns(NEEDS["aum"]), 1):
            label, other = (columns[name][order].astype(np.float64) for name in NEEDS["aum"])
            total.add(k, label - other, seen)
            cells = [
                ids,
                np.full(found.count, k),
                classes,
                label,
                empty,
                other,
                label - other,
                total.result() / k,
            ]
            for begin in range(0, found.count, files.ROWS):
                rows = slice(begin, begin + files.ROWS)
                yield np.stack([cell[rows].astype(object) for cell in cells], axis=1)

    header = [
        ID,
        "num_measurements",
        "target_logit",
        "target_val",
        "other_logit",
        "other_val",
        "margin",
        "aum",
    ]
    formats = ["%d", "%d", "%s", "%.9g", "%s", "%.9g", "%.17g", "%.17g"]
    files.write_pieces(records, header, formats, pieces)
    aum = total.result() / len(found.epochs)
    largest = np.argsort(-aum, kind="stable")  # NaN last
    rows = np.stack([ids[largest], aum[largest].astype(object)], axis=1)
    files.write_rows(values, [ID, "aum"], ["%d", "%.17g"], found.count, lambda some: rows[some])


def _cartography(path: Path, exported: Exported) -> None:
    """A line per sample; a further entry `epochs` says of how many correctness is the count. NaN is null."""
    order = np.argsort(exported.found.ids)
    ids, epochs = exported.found.ids[order], exported.epochs[order]
    confidence, variability, correctness, forgetting = (
        exported.values[name][order].astype(np.float64) for name in _METRICS
    )
    columns: dict[str, tuple[np.ndarray, type]] = {
        "threshold_closeness": (confidence * (1.0 - confidence), float),
        "confidence": (confidence, float),
        "variability": (variability, float),
        "correctness": (np.rint(correctness * epochs), int),
        "forgetfulness": (np.where(np.isposinf(forgetting), NEVER, forgetting), int),
    }

    def line(k: int) -> str:
        said: dict[str, Any] = {"guid": int(ids[k]), "index": k}
        said |= {name: None if np.isnan(v[k]) else kind(v[k]) for name, (v, kind) in columns.items()}
        return json.dumps({**said, "epochs": int(epochs[k])}, allow_nan=False) + "\n"

    def lines(stream: Any) -> None:
        for begin in range(0, len(ids), files.ROWS):
            stream.write("".join(map(line, range(begin, min(begin + files.ROWS, len(ids))))).encode())

    files.atomic_write(path, lines)


def _cleanlab(labels: Path, quality: Path, probs: Path, exported: Exported) -> None:
    """Rows in the order of the ids, which the table of qualities names."""
    found, order = exported.found, np.argsort(exported.found.ids)
    assert exported.labels is not None
    given = exported.labels[order]
    wanted = [name for name in ("label_prob", *NEEDS["aum"]) if name in found.holds]
    for columns in found.columns(wanted):
        last = columns
    p = last["label_prob"][order].astype(np.float64)
    cells = {ID: found.ids[order], "given_label": given, "self_confidence": p}
    if set(NEEDS["aum"]) <= last.keys():
        label, other = (last[name][order].astype(np.float64) for name in NEEDS["aum"])
        with np.errstate(over="ignore", invalid="ignore"):
            rival = np.minimum(p * np.exp(other - label), 1.0 - p)
        cells["normalized_margin"] = (p - rival + 1.0) / 2.0
    formats = ["%d", "%d", *["%.9g"] * (len(cells) - 2)]

    def rows(some: slice) -> np.ndarray:
        return np.stack([column[some].astype(object) for column in cells.values()], axis=1)

    files.write_array(labels, given.astype(np.int64))
    files.write_rows(quality, list(cells), formats, found.count, rows)
    if exported.probs is not None:
        files.write_array(probs, exported.probs())
