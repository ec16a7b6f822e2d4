"""Which files of a run folder are its checkpoints, and of which epochs, where other trainers have named them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.checkpoints import entry, integrity

SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".th", ".pkl", ".safetensors")
_NUMBER = re.compile(r"\d+(?:\.\d+)*(?:e[-+]?\d+)?", re.IGNORECASE)  # metrics in a name are one number each
_LABELLED = re.compile(r"(?:epochs?|(?<![a-z])ep)[-_=:. ]{0,2}(\d+)(?!\d|\.\d)", re.IGNORECASE)
_OTHERWISE = re.compile(r"(?:seed|run|fold|split|rank|trial|task|idx|index)[-_=:. ]{0,2}$", re.IGNORECASE)
# A run's label, unlike a number that a file was measured to have.
_RUN = re.compile(
    r"(?<![a-z])(?:(?i:seed|run|fold|trial|exp|experiment|split))s?(?:[-_=]?(\d+)|[-_=]([A-Za-z0-9]+)|([A-Z])(?![a-z]))"
)
_MEASURED = re.compile(
    r"(?:acc|loss|err|error|auc|f1|iou|map|psnr|bleu|ppl|top|score|metric|val|test)\W*_?$", re.IGNORECASE
)
_COPIES = re.compile(r"(?<![a-z])(?:best|last|latest|final|newest|averaged?|swa|ema)(?![a-z])", re.IGNORECASE)
_BESIDE = re.compile(
    "|".join((*entry.BESIDE, "training_args", "trainer_state", "random_states", r"(?<![a-z])opt(?![a-z])"))
)
_SHARD = re.compile(r"-\d+-of-\d+\.")
SHOWN = 6  # names listed of a folder


@dataclass(frozen=True)
class Found:
    """(epoch, checkpoint) pairs, ascending; how the epochs are known; the names of the checkpoints left out."""

    epochs: Sequence[tuple[int, Path]]
    how: str
    left_out: Sequence[str]


def labelled_epoch(name: str) -> int | None:
    """The number that a name itself calls an epoch: 3 of `epoch=3-step=400.ckpt`, 12 of `ckpt_ep012.pth`."""
    found = _LABELLED.findall(name)
    return int(found[-1]) if found else None


def said_epoch(path: Path) -> int | None:
    """The epoch that a file's name says, by the known names or by calling a number so."""
    known = names.epoch_of(path)
    return labelled_epoch(names.file_of(path).name) if known is None else known


def matching(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(epoch, file) of the files below a folder that fit a pattern in which `{epoch}` is the number, `*` any text; of a
    folder that fits its one checkpoint."""
    pattern = pattern.rstrip("/")
    parts = (re.escape(part).replace(r"\*", "[^/]*?") for part in pattern.split("{epoch}"))
    wanted = re.compile(r"(?<!\d)(\d+)(?!\d)".join(parts))
    found = []
    for path in folder.glob(pattern.replace("{epoch}", "*")):
        match, file = wanted.fullmatch(path.relative_to(folder).as_posix()), _inside(path)
        if match and file is not None:
            found.append((int(match[1]), file))
    return sorted(found)


def _inside(path: Path) -> Path | None:
    """A file itself, the weights of a folder that holds one checkpoint, None of any other."""
    if path.is_file():
        return path
    return next((each for name in names.MODEL_FILES if (each := path / name).is_file()), None)


def candidates(folder: Path) -> dict[str, Path]:
    """Name -> file of what may be a checkpoint: by its suffix, or in a folder of its own by Hugging Face's names.

    Where there is nothing else, the one checkpoint in each of the numbered folders, of one name in all.
    """
    out = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if (inner := _inside(path)) is not None:
                out[f"{path.name}/"] = inner
        elif path.name.lower().endswith(SUFFIXES) or path.name in names.MODEL_FILES:
            out[path.name] = path
    found = {name: path for name, path in out.items() if not name.startswith(".")}
    if not found:
        inside = [(below, files) for below, files in numbered(folder).items() if files]
        if len({tuple(path.name for path in files) for _, files in inside}) == 1 and len(inside[0][1]) == 1:
            return {f"{below.name}/": file for below, (file,) in inside}
    return found


def numbered(folder: Path) -> dict[Path, list[Path]]:
    """The folders below with a number in their names, which are no runs -> the checkpoints in each."""
    return {
        below: [
            path
            for path in sorted(below.iterdir())
            if path.name.lower().endswith(SUFFIXES)
            and path.is_file()
            and not _BESIDE.search(path.name.lower())
        ]
        for below in sorted(folder.iterdir())
        if below.is_dir() and _NUMBER.search(below.name) and not _RUN.search(below.name)
    }


def patterns_below(folder: Path) -> list[str]:
    """Values of --pattern that choose checkpoints of one name in numbered folders."""
    files = [f"{below.name}/{path.name}" for below, files in numbered(folder).items() for path in files]
    return [pattern for group in _kinds(files) if len(group) > 1 for pattern in _patterns(group)]


def in_folder(folder: Path) -> Found | None:
    """The checkpoints of a folder, None where nothing in it may be one.

    Of files that are named alike: by their own entry `epoch`, else by the number that the names call one, else by the
    only number that differs. Raises InputError where that settles nothing.
    """
    every = candidates(folder)
    weights = [name for name in every if not (_BESIDE.search(name.lower()) or _SHARD.search(name))]
    if not weights:
        return None
    numbered = [name for name in weights if _NUMBER.search(name)]
    pool = [name for name in numbered if not _COPIES.search(name)] or numbered or weights
    for group in (pool, _alike(pool)):
        for how, epochs in _ways(group, every):
            if None not in epochs and len(set(epochs)) == len(group) > 0:
                found = [
                    (epoch, every[name])
                    for epoch, name in zip(epochs, group, strict=True)
                    if epoch is not None
                ]
                _check_one_run(folder, dict(zip(group, epochs, strict=True)))
                return Found(sorted(found), how, [name for name in every if name not in group])
    raise InputError(
        f"'{folder}': the epochs of its checkpoints are not clear from {shown(pool)}",
        " or ".join(f"--pattern '{each}'" for each in _patterns(pool)[:3])
        or "pass --pattern with {epoch} in the place of the number, or one file instead of the folder",
    )


def _check_one_run(folder: Path, epochs: Mapping[str, int | None]) -> None:
    """Raises InputError where the names of checkpoints, in an order without two of one epoch, say several runs."""
    runs = _by_run(epochs)
    if len(runs) > 1:
        raise InputError(
            f"'{folder}' holds checkpoints of {len(runs)} runs by their names: {shown([each[0] for each in runs])}",
            apart(epochs) or "pass --pattern with {epoch} in the place of the number, or move them apart",
        )


def _by_run(epochs: Mapping[str, int | None]) -> list[list[str]]:
    """The names of each run: by what they call one, else by words or a number that several files have each, and that
    neither rises nor falls with the epoch.
    """
    ordered = sorted(epochs, key=lambda name: epochs[name] or 0)
    called = {name: tuple(filter(None, itertools.chain(*_RUN.findall(name)))) for name in ordered}
    if any(tuple(map(str, [epochs[name]] * len(run))) != run for name, run in called.items()):
        runs = _grouped({name: str(run) for name, run in called.items()})
        if len(runs) > 1:
            return runs
    words = _grouped({name: re.sub(r"[^a-z]+", " ", name.lower().replace("nan", "0")) for name in ordered})
    if sum(len(group) > 1 for group in words) > 1:
        return words
    if len(words) > 1 or len(_kinds(ordered)) > 1:
        return [ordered]
    first = list(_NUMBER.finditer(ordered[0]))
    for k, column in enumerate(zip(*(_NUMBER.findall(name) for name in ordered), strict=True)):
        if not all(value.isdigit() for value in column) or _MEASURED.search(ordered[0][: first[k].start()]):
            continue
        numbers, runs = [int(value) for value in column], _grouped(dict(zip(ordered, column, strict=True)))
        if len(runs) > 1 and min(map(len, runs)) > 1 and sorted(numbers) not in (numbers, numbers[::-1]):
            return runs
    return [ordered]


def _grouped(said: Mapping[str, str]) -> list[list[str]]:
    """Names by what is said of each."""
    groups: dict[str, list[str]] = {}
    for name, value in said.items():
        groups.setdefault(value, []).append(name)
    return list(groups.values())


def apart(epochs: Mapping[str, int | None]) -> str:
    """The flags that choose the files of one run or one kind, of files whose names say their epochs; empty where no
    pattern does.
    """
    found = []
    for run in _by_run(epochs):
        for group in _kinds(run):
            first, rows = list(_NUMBER.finditer(group[0])), [_NUMBER.findall(name) for name in group]
            columns = list(zip(*rows, strict=True))
            said = [str(epochs[name]) for name in group]
            places = [
                k
                for k, column in enumerate(columns)
                if [value.lstrip("0") or "0" for value in column] == said
            ]
            calls = [k for k in places if _LABELLED.search(group[0][: first[k].end()])]
            words = [
                "{epoch}" if k in (calls or places)[:1] else c[0] if len({*c}) == 1 else "*"
                for k, c in enumerate(columns)
            ]
            if places:
                found.append("".join(map("".join, zip_longest(_NUMBER.split(group[0]), words, fillvalue=""))))
    return " or ".join(f"--pattern '{each}'" for each in found[:4])


def shown(found: Sequence[str]) -> str:
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def _ways(group: Sequence[str], paths: Mapping[str, Path]) -> Iterator[tuple[str, Sequence[int | None]]]:
    """What may be the epochs of files, best first; None of a file that says none."""
    entries: list[int | None] = []
    for name in group:  # up to the first without: files may be many
        entries.append(integrity.epoch_in(paths[name]))
        if entries[-1] is None:
            break
    yield "the files' own entries 'epoch'", entries
    yield "the numbers that the names call so", [labelled_epoch(name) for name in group]
    columns = {tuple(column) for column in _columns(group).values()}
    yield "the only numbers that differ between the names", columns.pop() if len(columns) == 1 else ()


def _alike(pool: Sequence[str]) -> Sequence[str]:
    """Those whose names call a number an epoch, else those that differ by numbers alone, where no others do."""
    labelled = [name for name in pool if labelled_epoch(name) is not None]
    several = [group for group in _kinds(pool) if len(group) > 1]
    return labelled or (several[0] if len(several) == 1 else [])


def _kinds(pool: Sequence[str]) -> list[list[str]]:
    """Names that differ by numbers alone, the most frequent kind first."""
    kinds: dict[str, list[str]] = {}
    for name in pool:
        kinds.setdefault(_NUMBER.sub("0", name), []).append(name)
    return sorted(kinds.values(), key=len, reverse=True)


def _columns(group: Sequence[str], *, alone: bool = False) -> dict[int, list[int]]:
    """Place among a name's numbers -> the number in each name: whole ones that differ and may be an epoch.

    With `alone` those that are all the same too: nothing can differ in one name.
    """
    if len(_kinds(group)) != 1:
        return {}
    rows = [_NUMBER.findall(name) for name in group]
    first = list(_NUMBER.finditer(group[0]))
    return {
        k: [int(value) for value in column]
        for k, column in enumerate(zip(*rows, strict=True))
        if all(value.isdigit() for value in column)
        and (len(set(column)) > 1 or alone)
        and not _OTHERWISE.search(group[0][: first[k].start()])
    }


def _patterns(pool: Sequence[str]) -> list[str]:
    """Values of --pattern that choose among names."""
    out = []
    for group in _kinds(pool):
        rows = list(zip(*(_NUMBER.findall(name) for name in group), strict=True))
        for chosen in _columns(group, alone=len(group) == 1):
            words = [
                "{epoch}" if k == chosen else row[0] if len(set(row)) == 1 else "*"
                for k, row in enumerate(rows)
            ]
            out.append("".join(map("".join, zip_longest(_NUMBER.split(group[0]), words, fillvalue=""))))
    return out
