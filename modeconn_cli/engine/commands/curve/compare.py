"""`mcx curve compare`: evaluations of curves and straight lines beside each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, must_exist
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import evaluated
from modeconn_cli.engine.paths.evaluated import Evaluated
from modeconn_cli.engine.paths.figures import compared
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.figures import said_beside
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.curve import CurveCompareSettings
from modeconn_cli.engine.settings.shared import in_every_format
from modeconn_cli.engine.statistics import Spread

TABLE, MEANS, FIGURE = "curve_compare.csv", "curve_compare_mean.csv", "curve_compare.png"
ANY_SEED = "seed*"
_SEED = re.compile(r"seed[-_]?\d+")
_HINT = "pass the --output-dir of mcx curve eval or mcx lmc interpolate"


@dataclass(frozen=True)
class Compared:
    """A path, or the mean over the seeds of one: `files` are its evaluations, `positions` the most that one has.

    Of one evaluation every spread has a mean alone. `top` is the highest value along the path, `barriers` are by
    definition and series: losses in nats, errors in percentage points.
    """

    name: str
    kind: str
    files: list[str]
    positions: int
    held_out: str
    bn: str | None
    length: Spread
    distance: Spread
    top: dict[str, Spread]
    barriers: dict[str, dict[str, Spread]]


@dataclass(frozen=True, kw_only=True)
class CurveCompareResult(Record):
    """Barriers of the chosen definition stand in the table; the files hold all."""

    schema: ClassVar[str] = "mcx.curve_compare/1"

    barrier: str
    paths: list[Compared]
    files: list[str]


def run(settings: CurveCompareSettings, runtime: Runtime) -> CurveCompareResult | None:
    """Read all evaluations, and draw and write where a folder for that is given."""
    groups = _named(_groups(settings))
    for each in (each for members in groups.values() for each in members if not each.finite):
        runtime.warn(f"'{each.file}' holds values that are no numbers: its barriers have none")
    _say_differences([each for members in groups.values() for each in members], runtime)
    folder = settings.output_dir
    count = sum(map(len, groups.values()))
    if runtime.plan(
        [
            f"compare {count} evaluations of {len(groups)} paths",
            f"results in {folder}" if folder else "no files: pass --output-dir DIR to keep table and figure",
        ]
    ):
        return None
    result = [_compared(name, members) for name, members in groups.items()]
    made = [TABLE, MEANS, settings.named(FIGURE)]
    if folder is not None:
        read = [path for each in settings.folders for path in _files_read(names.label_and_path(each)[1])]
        owned = (TABLE, MEANS, *in_every_format(FIGURE))
        with jobs.opened(settings, folder, "curve compare", runtime, further=read, owned=owned) as job:
            if not job.complete:
                files.write_text(folder / TABLE, _table(groups))
                files.write_text(folder / MEANS, _means(result))
                title = f"Paths compared: {_about(groups)}".removesuffix(": ")
                files.atomic_write(folder / made[2], compared(groups, title, settings))
                job.finish([folder / name for name in made])
    return CurveCompareResult(
        barrier=settings.barrier,
        paths=result,
        files=[] if folder is None else [str(folder / name) for name in made],
    )


def _places(folder: Path) -> list[Path]:
    """The folders of evaluations that a folder stands for: itself, or those of several seeds in it.

    Raises InputError where there is none.
    """
    must_exist(folder, _HINT, folder=True)
    if evaluated.files_in(folder):
        return [folder]
    seeds = [path for path in folder.iterdir() if _SEED.fullmatch(path.name) and evaluated.files_in(path)]
    if not seeds:
        raise InputError(f"'{folder}' holds no evaluation (curve.npz, line.npz)", _HINT)
    return sorted(seeds, key=lambda path: (len(path.name), path.name))


def _files_read(folder: Path) -> list[Path]:
    return [path for place in _places(folder) for path in evaluated.files_in(place)]


def _groups(settings: CurveCompareSettings) -> dict[tuple[str, str, str], list[Evaluated]]:
    """The evaluations by label, place without the number of a seed, and file name."""
    groups: dict[tuple[str, str, str], list[Evaluated]] = {}
    for word in settings.folders:
        label, folder = names.label_and_path(word)
        for place in _places(folder):
            where = str(place.resolve())
            alike = "" if label else _SEED.sub(ANY_SEED, where)
            for each in evaluated.in_folder(place):
                key = (label, alike, each.file.name) if settings.group else (label, where, each.file.name)
                members = groups.setdefault(key, [])
                if each.file not in [other.file for other in members]:
                    members.append(each)
    return groups


def _named(groups: Mapping[tuple[str, str, str], list[Evaluated]]) -> dict[str, list[Evaluated]]:
    """A name for each group: its label, or as much of its place as tells it from the others."""
    kinds = Counter((label, where) for label, where, _ in groups)
    parts = {
        (label, where): _parts(where if len(members) > 1 else str(members[0].file.resolve().parent))
        for (label, where, _), members in groups.items()
    }
    out: dict[str, list[Evaluated]] = {}
    for (label, where, file), members in groups.items():
        others = [each for place, each in parts.items() if place != (label, where)]
        name = label or _shortest(parts[label, where], others)
        name += f" {Path(file).stem}" if kinds[label, where] > 1 else ""
        while name in out:
            name += "'"
        out[name] = members
    return out


def _parts(place: str) -> tuple[str, ...]:
    """The parts of a path but those that stand for any seed."""
    return tuple(part for part in Path(place).parts if part != ANY_SEED)


def _shortest(parts: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    """The last parts of a path that no other ends in; a seed alone is no name."""
    count = 1
    while count < len(parts) and (
        _SEED.fullmatch(parts[-count])
        or any(tuple(other[-count:]) == tuple(parts[-count:]) for other in others)
    ):
        count += 1
    return "/".join(parts[-count:])


def _say_differences(found: Sequence[Evaluated], runtime: Runtime) -> None:
    """What keeps numbers from being compared."""
    for what, values in (
        ("data sets", {each.dataset for each in found}),
        ("held-out images", {each.held_out for each in found}),
        ("policies of batch norm", {each.bn for each in found} - {"no batch norm"}),
    ):
        known = sorted(value for value in values if value is not None)
        if len(known) > 1:
            runtime.warn(f"the paths were measured with different {what}: {', '.join(known)}")


def _compared(name: str, members: Sequence[Evaluated]) -> Compared:
    barriers = [each.barriers for each in members]
    series = {"loss_train": "tr_nll", "error_train": "tr_err", "loss_test": "te_nll", "error_test": "te_err"}
    return Compared(
        name=name,
        kind=" and ".join(dict.fromkeys(each.kind for each in members)),
        files=[tilde(each.file) for each in members],
        positions=max(len(each.arrays["ts"]) for each in members),
        held_out=members[0].held_out,
        bn=members[0].bn,
        length=Spread.of([each.length for each in members]),
        distance=Spread.of([each.distance for each in members]),
        top={
            key: Spread.of([float(each.arrays[of].max()) for each in members]) for key, of in series.items()
        },
        barriers={
            definition: {key: Spread.of([each[definition][key] for each in barriers]) for key in values}
            for definition, values in barriers[0].items()
        },
    )


def _table(groups: Mapping[str, Sequence[Evaluated]]) -> str:
    """CSV, a row per evaluation."""
    rows: list[dict[str, Any]] = [
        {
            "path": name,
            "file": tilde(each.file),
            "kind": each.kind,
            "positions": len(each.arrays["ts"]),
            "held_out": each.held_out,
            "bn": each.bn,
            "length": each.length,
            "endpoint_distance": each.distance,
            **{f"{definition}_{key}": v for definition, of in each.barriers.items() for key, v in of.items()},
        }
        for name, members in groups.items()
        for each in members
    ]
    return files.csv_text(list(rows[0]), [list(row.values()) for row in rows])


def _means(paths: Sequence[Compared]) -> str:
    """CSV, a row per path: how many evaluations, then mean and standard deviation of every number."""
    rows = []
    for each in paths:
        spreads = {"length": each.length, "endpoint_distance": each.distance}
        spreads |= {f"top_{key}": spread for key, spread in each.top.items()}
        spreads |= {
            f"{name}_{key}": spread for name, of in each.barriers.items() for key, spread in of.items()
        }
        row: dict[str, Any] = {"path": each.name, "kind": each.kind, "evaluations": len(each.files)}
        for name, spread in spreads.items():
            row |= {f"{name}_mean": spread.mean, f"{name}_sd": spread.sd}
        rows.append(row)
    return files.csv_text(list(rows[0]), [list(row.values()) for row in rows])


def _about(groups: Mapping[str, Sequence[Evaluated]]) -> str:
    """The networks and data of all, as far as their records say."""
    said = [said_beside([each.file]) for members in groups.values() for each in members]
    return " and ".join(dict.fromkeys(filter(None, said)))
