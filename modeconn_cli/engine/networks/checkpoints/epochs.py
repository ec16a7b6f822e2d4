"""Which epochs of a run are meant, and the checkpoints of a folder."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import multimode

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, SettingsError, must_exist
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints import integrity, trainers
from modeconn_cli.engine.settings.base import specs
from modeconn_cli.engine.settings.scoring import RunFolderSettings

DEEPEST = 4  # folders below one without checkpoints that are searched


def meant(
    word: Path, settings: RunFolderSettings, runtime: Runtime, *, gaps: bool = False
) -> dict[Path, int | None]:
    """checkpoint -> epoch, where one is known, of what a word means: the file itself, or those of a folder or a
    pattern, in the order of their epochs, of the range that the settings name. With `gaps` epochs of it may be missing
    whatever the settings say. An entry that it says (`RUN::ema`) is that of each.
    """
    if os.path.isdir(names.file_of(word)):
        return {path: epoch for epoch, path in in_range(word, settings, runtime, gaps=gaps).items()}
    found = _fitting(word)
    if not found:
        return {word: trainers.said_epoch(word)}
    epochs = {epoch: path for path in found if (epoch := trainers.said_epoch(path)) is not None}
    if len(epochs) < len(found):  # names that say no epoch, or one twice: all of them
        return {path: trainers.said_epoch(path) for path in found}
    start, end, step = settings.start_epoch, settings.end_epoch, settings.epoch_step
    kept, _ = between(epochs, start, end, step, f"files of '{word}'", lenient=gaps)
    return {epochs[epoch]: epoch for epoch in kept}


def names_several(word: Path) -> bool:
    """Whether a word means several checkpoints: a folder, or a pattern that files fit."""
    return os.path.isdir(names.file_of(word)) or bool(_fitting(word))


def _fitting(word: Path) -> list[Path]:
    """The files of a pattern, in the order of their epochs; none of a word that is the name of a file."""
    if not set("*?") & set(str(word)) or os.path.lexists(word):
        return []
    pattern, entry = names.file_and_entry(word)
    found = sorted(
        map(Path, sorted(glob.glob(str(pattern)))), key=lambda path: trainers.said_epoch(path) or 0
    )
    return [names.with_entry(path, entry) for path in found]


def in_range(
    folder: Path, settings: RunFolderSettings, runtime: Runtime, *, gaps: bool = False
) -> dict[int, Path]:
    """epoch -> checkpoint of a folder, ascending, of the run and the range that the settings name.

    Raises SettingsError for a folder with several runs, InputError for one without checkpoints, whose epochs are not
    clear or with gaps.
    """
    place, entry = names.file_and_entry(folder)
    found = _in_folder(place, settings, runtime)
    kept, missing = between(
        found,
        settings.start_epoch,
        settings.end_epoch,
        settings.epoch_step,
        "checkpoints",
        lenient=gaps or settings.gaps,
    )
    if missing:
        runtime.warn(f"checkpoints of {len(missing)} epochs of the range are missing: {missing[:10]}")
    return {
        epoch: names.with_entry(found[epoch], entry) for epoch in (kept[-1:] if settings.last_alone else kept)
    }


def _in_folder(folder: Path, settings: RunFolderSettings, runtime: Runtime) -> dict[int, Path]:
    """epoch -> checkpoint of a folder, of one run where the names say several."""
    must_exist(folder, "pass the folder that holds checkpoint-<epoch>.pt", folder=True)
    integrity.check_gathered(folder)
    if settings.pattern is not None:
        epochs = trainers.matching(folder, settings.pattern)
        if not epochs:
            raise InputError(f"'{folder}' holds nothing like '{settings.pattern}'", _found(folder))
        return _once(folder, epochs, settings)
    run_idx = settings.run
    runs = {run for path in folder.iterdir() if (run := names.run_of(path)) is not None}
    if len(runs) > 1 and run_idx is None:
        raise SettingsError(
            f"'{folder}' holds checkpoints of {len(runs)} runs: {', '.join(map(str, sorted(runs)[:10]))}",
            _choosing(
                folder, settings, [path for path in folder.iterdir() if names.run_of(path) is not None]
            ),
        )
    known = [
        (epoch, path) for path in sorted(folder.iterdir()) if (epoch := names.epoch_of(path)) is not None
    ]
    if known:
        wanted = (None, run_idx) if run_idx is not None else (None, *runs)
        return _once(
            folder, [(epoch, path) for epoch, path in known if names.run_of(path) in wanted], settings
        )
    return _of_trainer(folder, runtime)


def _of_trainer(folder: Path, runtime: Runtime) -> dict[int, Path]:
    """epoch -> checkpoint of a folder whose names are another trainer's, and a note of what they are taken for."""
    found = trainers.in_folder(folder)
    if found is None:
        raise InputError(f"'{folder}' holds no checkpoints", _nearby(folder))
    ends = [f"{names.checkpoint_of(path)} is {epoch}" for epoch, path in (found.epochs[0], found.epochs[-1])]
    runtime.note(
        f"'{folder}': epochs are {found.how}, kept as they are also where they count from 0: "
        f"{', '.join(dict.fromkeys(ends))}; --pattern takes others",
        once=True,
    )
    if found.left_out:
        runtime.note(f"'{folder}': left out: {trainers.shown(found.left_out)}", once=True)
    return dict(found.epochs)


def _once(folder: Path, found: Iterable[tuple[int, Path]], settings: RunFolderSettings) -> dict[int, Path]:
    """epoch -> checkpoint, ascending. Raises SettingsError where there are several of one epoch."""
    out: dict[int, Path] = {}
    every = sorted(found)
    for epoch, path in every:
        if epoch in out:
            raise SettingsError(
                f"'{folder}' holds several checkpoints of one epoch: {out[epoch].name}, {path.name}",
                _choosing(folder, settings, [each for _, each in every]),
            )
        out[epoch] = path
    if not out:
        raise InputError(f"'{folder}' holds no checkpoints", _nearby(folder))
    return out


def _choosing(folder: Path, settings: RunFolderSettings, files: Iterable[Path]) -> str:
    """The flags of the command at hand that tell apart files whose names say their epochs."""
    files = list(files)
    if len({names.run_of(path) for path in files}) > 1 and any(
        s.name == "run_idx" for s in specs(type(settings))
    ):
        return "choose the run with --run-idx, others with --pattern, or move them apart"
    said = {path.relative_to(folder).as_posix(): trainers.said_epoch(path) for path in files}
    return trainers.apart(said) or "choose with --pattern, or move them apart"


def _nearby(folder: Path) -> str:
    """Where checkpoints are below a folder that has none: in numbered folders, else the nearest that holds any."""
    if patterns := trainers.patterns_below(folder):
        return " or ".join(f"--pattern '{each}'" for each in patterns[:3])
    for depth in range(1, DEEPEST + 1):
        if below := _below(folder, "*/" * depth + "*"):
            return f"did you mean {below[0]}?"
    return _found(folder)


def _below(folder: Path, pattern: str) -> list[Path]:
    """The folders of the checkpoints that fit."""
    files = [path for path in folder.glob(pattern) if path.is_file()]
    known = {path.parent for path in files if names.epoch_of(path) is not None}
    return sorted(known or {path.parent for path in files if path.name.endswith(trainers.SUFFIXES)})


def _found(folder: Path) -> str:
    """What a folder holds, and what would be taken."""
    files = sorted(path.name for path in folder.iterdir())
    return (
        f"found: {trainers.shown(files) or 'nothing'}; files of torch.save or safetensors are taken, by names such as "
        "checkpoint-<e>.pt, index-<i>_epoch-<e>.pt or --pattern 'NAME{epoch}.pt'"
    )


def between(
    found: Iterable[int], start: int | None, end: int | None, step: int, what: str, *, lenient: bool = False
) -> tuple[list[int], list[int]]:
    """The epochs of a range that are there, and those that are not; without bounds every epoch found.

    `end` is included. Raises InputError for missing epochs unless `lenient`, and where nothing is left.
    """
    there = sorted(found)
    if start is None and end is None and step == 1:
        return there, []
    first = there[0] if start is None and there else start or 0
    last = there[-1] if end is None and there else end or 0
    if last < first:
        raise SettingsError(f"--end-epoch {last} lies before --start-epoch {first}")
    wanted = list(range(first, last + 1, step))
    known = set(there)
    missing = [epoch for epoch in wanted if epoch not in known]
    kept = [epoch for epoch in wanted if epoch in known]
    if missing and not lenient:
        named = ", ".join(map(str, missing[:10])) + (
            f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        )
        raise InputError(
            f"{what} of {len(missing)} epochs are missing: {named}",
            f"found: {_words(there)}; {_would_do(there, first, last, step)}",
        )
    if not kept:
        raise InputError(f"no {what} between epochs {first} and {last}", f"found: {_words(there)}")
    return kept, missing


def lacking(epochs: list[int]) -> list[int]:
    """Those that are not there between ascending epochs that are further apart than most are.

    >>> lacking([0, 2, 4, 8, 9]), lacking([5, 10, 15])
    ([6], [])
    """
    apart = [after - before for before, after in pairwise(epochs)]
    usual = min(multimode(apart), default=1)
    return [epoch for before, after in pairwise(epochs) for epoch in range(before + usual, after, usual)]


def _would_do(there: list[int], first: int, last: int, step: int) -> str:
    """The flags that choose those epochs of a range that are there, where they follow each other evenly."""
    inside = [epoch for epoch in there if first <= epoch <= last]
    apart = math.gcd(*(after - before for before, after in pairwise(inside)))
    for each in (step, apart or step):
        if not inside:
            break
        start, end = (first if first in inside else inside[0]), inside[-1]
        if all(epoch in inside for epoch in range(start, end + 1, each)):
            begin = f" --start-epoch {start}" if start != first else ""
            stop = f" --end-epoch {end}" if end < last else ""
            return f"pass{begin}{stop}{f' --step {each}' if each != step else ''}"
    return "choose with --start-epoch, --end-epoch and --epoch-step"


def _words(epochs: list[int]) -> str:
    if len(epochs) <= 6:
        return ", ".join(map(str, epochs)) or "none"
    return f"{epochs[0]}, {epochs[1]}, {epochs[2]} … {epochs[-1]} ({len(epochs)} epochs)"
