"""A branch against the main branch at one epoch: the JSON document of a pair, its reading, and the table of many."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from modeconn_cli.engine.commands.lmc.line import SERIES, Line, with_lists
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.paths.barriers import HEADLINE, Barriers
from modeconn_cli.engine.paths.statistics import StatisticsUsed
from modeconn_cli.engine.results import files, records
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.statistics import Spread

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("k1", "k2", "epoch", "distance")
STABLE = 2.0  # points of error: below it Frankle et al. 2020 call a network stable to SGD noise

_NAME = re.compile(r".+_batch_(\d+)_k1_(\d+)_k2_(\d+)\.json")


@dataclass(frozen=True, kw_only=True)
class PairDocument(Record):
    """A pair's file as `mcx lmc run` writes it. `alpha_0` and `alpha_1` say which branch lies at which end, `align` by
    what the second's units are in the order of the first's.
    """

    schema: ClassVar[str] = "mcx.lmc_pair/1"

    dataset: str
    k1: int
    k2: int
    epoch: int
    distance: float
    line: Line
    barriers: Barriers
    alpha_0: str
    alpha_1: str
    seed: int
    branch_seed: int
    align: str
    bn: StatisticsUsed

    def fields(self) -> dict[str, Any]:
        return with_lists(super().fields())


@dataclass(frozen=True)
class PairResult:
    """A branch against the main branch. `k2` counts further epochs, `branch_seed` is None where no file says it."""

    k1: int
    k2: int
    epoch: int
    distance: float
    barriers: Barriers
    file: str
    branch_seed: int | None = None

    def barrier(self, definition: str = HEADLINE, series: str = "loss_test") -> float:
        """One barrier; NaN where the definition has no value."""
        value = self.barriers[definition][series]
        return math.nan if value is None else value


@dataclass(frozen=True)
class Pair:
    """A pair as its file holds it; `original` where the linear mode connectivity study wrote the file."""

    dataset: str
    batch_size: int | None
    result: PairResult
    line: Line
    original: bool

    @property
    def finite(self) -> bool:
        """Whether all figures on the line are numbers."""
        return all(np.isfinite(values).all() for values in vars(self.line).values())

    def at(self, alphas: Sequence[float]) -> PairResult | None:
        """The result of some of the positions, ascending; None where the file lacks one of them."""
        line = self.line.only(alphas)
        return None if line is None else replace(self.result, barriers=line.barriers())


@dataclass(frozen=True)
class MeanPair:
    """Branches of several seeds against the main branch at one k1 and k2; `seeds` is how many there are."""

    k1: int
    k2: int
    epoch: int
    seeds: int
    distance: Spread
    barriers: dict[str, dict[str, Spread]]

    @classmethod
    def of(cls, found: Sequence[PairResult]) -> MeanPair:
        """The mean of pairs of one k1 and k2."""
        first = found[0]
        barriers = {
            name: {series: Spread.of([each.barriers[name][series] for each in found]) for series in values}
            for name, values in first.barriers.items()
        }
        distance = Spread.of([each.distance for each in found])
        return cls(first.k1, first.k2, first.epoch, len(found), distance, barriers)

    def barrier(self, definition: str = HEADLINE, series: str = "loss_test") -> float:
        """The mean of one barrier; NaN where a seed has no value."""
        value = self.barriers[definition][series].mean
        return math.nan if value is None else value


def means(results: Sequence[PairResult]) -> list[MeanPair]:
    """The mean over the seeds of every k1 and k2."""
    by_place: dict[tuple[int, int], list[PairResult]] = {}
    for each in results:
        by_place.setdefault((each.k1, each.k2), []).append(each)
    return [MeanPair.of(by_place[place]) for place in sorted(by_place)]


def name(dataset: str, batch_size: int, k1: int, k2: int) -> str:
    """The documented file name of a pair."""
    return f"{dataset}_batch_{batch_size}_k1_{k1}_k2_{k2}.json"


def looks_like_one(path: Path) -> bool:
    """Whether a file is named as a pair."""
    return _NAME.fullmatch(path.name) is not None


def known(path: Path, warn: Callable[[str], None] = lambda _: None) -> Pair | None:
    """What a pair's file holds; None where there is none, or a broken one: `warn` is told, it is measured again."""
    if not path.exists():
        return None
    try:
        return read(path)
    except InputError as error:
        warn(f"{error.message}; measured again")
        return None


def read(path: Path) -> Pair:
    """A pair's file, ours or of the original study.

    The original has α = 0 at the branch, k2 as an absolute epoch and float32 positions; here α = 0 is the main
    branch and k2 counts further epochs. Barriers are computed from the lists, whatever the file says.
    """
    content = records.read_object(path, "delete it; its pair is then measured again")
    return _of_content(content, path, original="schema" not in content)


def frame(pair: Pair) -> pd.DataFrame:
    """A line as a table, a row per position: losses in nats, errors in percent."""
    import pandas as pd

    told = pair.result
    place = {"k1": told.k1, "k2": told.k2, "epoch": told.epoch, "branch_seed": told.branch_seed}
    return pd.DataFrame({**place, "alpha": pair.line.alphas, **pair.line.series()})


def read_table(path: Path) -> list[Pair]:
    """The pairs of one of the study's tables, a row each; lists are JSON's or as NumPy prints them."""
    with files.reading(path), path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    out = []
    for row in rows:
        try:
            lists = {
                name: [float(value) for value in row[name].strip("[]").replace(",", " ").split()]
                for name in Line.__dataclass_fields__
            }
        except (KeyError, ValueError, AttributeError) as error:
            raise InputError(f"'{path}' is not a table of the study's pairs: {error}") from error
        out.append(_of_content({**row, **lists}, path, original=True))
    return out


def _of_content(content: Mapping[str, Any], path: Path, *, original: bool) -> Pair:
    """A pair of a file or of a row. Raises InputError where it is none."""
    try:
        line = Line.read(content)
        dataset, k1, k2 = str(content["dataset"]), _epochs(content["k1"]), _epochs(content["k2"])
        distance = float(content["distance"])
        if original:
            line, k2 = line.flipped(), k2 - k1
        if k1 < 0 or k2 < 1:
            raise ValueError(f"epoch {k1 + k2} does not come after k1 = {k1}")
        if not (line.alphas[0] == 0 and line.alphas[-1] == 1 and (np.diff(line.alphas) >= 0).all()):
            raise ValueError("its positions do not run from 0 to 1")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(f"'{path}' is not a pair of mcx lmc run: {reason}") from error
    named = _NAME.fullmatch(path.name)
    seed = content.get("branch_seed")
    seed = seed if isinstance(seed, int) and not original else None
    result = PairResult(k1, k2, k1 + k2, distance, line.barriers(), str(path), seed)
    return Pair(dataset, int(named[1]) if named else None, result, line, original)


def _epochs(value: Any) -> int:
    """A number of epochs, of JSON or of a table's text. Raises TypeError or ValueError for any other value."""
    if not float(value).is_integer():
        raise ValueError(f"{value} is no number of epochs")
    return int(float(value))


def stable_from(results: Sequence[PairResult | MeanPair]) -> int | None:
    """The first k1 from which on no pair's error rises by 2 points or more; None where there is none.

    The rise is sup_minus_mean on training and test images, as Frankle et al. 2020 define instability; over several
    seeds of the branches it is the mean's.
    """
    stable, rises = None, dict[int, list[float]]()
    for pair in results:
        found = (pair.barrier("sup_minus_mean", series) for series in ("error_train", "error_test"))
        rises.setdefault(pair.k1, []).extend(found)
    for k1 in sorted(rises, reverse=True):
        if not all(rise < STABLE for rise in rises[k1]):  # nor where one is NaN
            break
        stable = k1
    return stable


def as_table(results: Sequence[PairResult]) -> pd.DataFrame:
    """The pairs in the columns of `table`, with the seeds of their branches; NaN where a definition has no value."""
    import pandas as pd

    rows = [
        {
            "branch_seed": pair.branch_seed,
            **{column: getattr(pair, column) for column in COLUMNS},
            **{f"{name}_{series}": pair.barrier(name, series) for name in pair.barriers for series in SERIES},
        }
        for pair in results
    ]
    return pd.DataFrame(rows)


def mean_table(means: Sequence[MeanPair]) -> str:
    """CSV, a row per k1 and k2: how many seeds, then mean and sd of the distance and of every barrier."""
    spreads = [
        {
            "distance": each.distance,
            **{
                f"{name}_{series}": each.barriers[name][series] for name in each.barriers for series in SERIES
            },
        }
        for each in means
    ]
    columns = list(spreads[0]) if spreads else []
    header = [
        "k1",
        "k2",
        "epoch",
        "seeds",
        *(f"{name}_{what}" for name in columns for what in ("mean", "sd")),
    ]
    cells = [
        [each.k1, each.k2, each.epoch, each.seeds]
        + [value for name in columns for value in (own[name].mean, own[name].sd)]
        for each, own in zip(means, spreads, strict=True)
    ]
    return files.csv_text(header, cells)


def table(rows: Sequence[tuple[Mapping[str, Any], PairResult]]) -> str:
    """CSV, a row per pair: the leading columns given, then k1, k2, epoch, distance and every barrier."""
    definitions = list(rows[0][1].barriers) if rows else []
    leading = list(rows[0][0]) if rows else []
    header = [*leading, *COLUMNS, *(f"{name}_{series}" for name in definitions for series in SERIES)]
    cells = []
    for more, pair in rows:
        values = [pair.barriers[name][series] for name in definitions for series in SERIES]
        finite = [value if value is not None and math.isfinite(value) else None for value in values]
        cells.append([*more.values(), *(getattr(pair, column) for column in COLUMNS), *finite])
    return files.csv_text(header, cells)
