"""Which epochs of a run are meant, and the checkpoints of a folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints import integrity
from modeconn_cli.engine.settings.scoring import EpochSettings


def meant(word: Path, settings: EpochSettings, runtime: Runtime, *, gaps: bool = False) -> list[Path]:
    """The checkpoints that a word means: the file itself, or those of a folder or a pattern, in the order of their
    epochs, of the range that the settings name. An entry that it says (`RUN::ema`) is that of each. With `gaps` epochs
    of it may be missing whatever the settings say.
    """
    if os.path.isdir(names.file_of(word)):
        return list(in_range(word, settings, runtime, gaps=gaps).values())
    found = _fitting(word)
    if not found:
        return [word]
    epochs = {epoch: path for path in found if (epoch := names.epoch_of(path)) is not None}
    if len(epochs) < len(found):  # names that say no epoch, or one twice: all of them
        return found
    start, end, step = settings.start_epoch, settings.end_epoch, settings.epoch_step
    kept, _ = between(epochs, start, end, step, f"files of '{word}'", lenient=gaps)
    return [epochs[epoch] for epoch in kept]


def names_several(word: Path) -> bool:
    """Whether a word means several checkpoints: a folder, or a pattern that files fit."""
    return os.path.isdir(names.file_of(word)) or bool(_fitting(word))


def _fitting(word: Path) -> list[Path]:
    """The files of a pattern, in the order of their epochs; none of a word that is the name of a file."""
    if not set("*?") & set(str(word)) or os.path.lexists(word):
        return []
    pattern, entry = names.file_and_entry(word)
    found = sorted(map(Path, sorted(glob.glob(str(pattern)))), key=lambda path: names.epoch_of(path) or 0)
    return [names.with_entry(path, entry) for path in found]


def in_range(
    folder: Path, settings: EpochSettings, runtime: Runtime, *, gaps: bool = False
) -> dict[int, Path]:
    """epoch -> checkpoint of a folder, ascending, of the run and the range that the settings name.

    Raises SettingsError for a folder with several runs, InputError for one without checkpoints or with gaps.
    """
    found = in_folder(folder, settings.run)
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
    return {epoch: found[epoch] for epoch in (kept[-1:] if settings.last_alone else kept)}


def in_folder(folder: Path, run_idx: int | None = None) -> dict[int, Path]:
    """epoch -> checkpoint of a folder, of one run where the names say several."""
    folder, entry = names.file_and_entry(folder)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder", "pass the folder that holds checkpoint-<epoch>.pt")
    integrity.check_gathered(folder)
    runs = {run for path in folder.iterdir() if (run := names.run_of(path)) is not None}
    if len(runs) > 1 and run_idx is None:
        raise SettingsError(
            f"'{folder}' holds checkpoints of {len(runs)} runs: {', '.join(map(str, sorted(runs)[:10]))}",
            "choose one with --run-idx",
        )
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        epoch, run = names.epoch_of(path), names.run_of(path)
        if epoch is not None and (run is None or run_idx is None or run == run_idx):
            found.setdefault(epoch, []).append(path)
    twice = next((paths for paths in found.values() if len(paths) > 1), None)
    if twice is not None:
        raise SettingsError(
            f"'{folder}' holds several checkpoints of one epoch: {', '.join(path.name for path in twice[:3])}",
            "choose the run with --run-idx, or move them apart",
        )
    if not found:
        raise InputError(f"'{folder}' holds no checkpoints", _nearby(folder))
    return {epoch: names.with_entry(paths[0], entry) for epoch, paths in sorted(found.items())}


def _nearby(folder: Path) -> str:
    """Where checkpoints are below a folder that has none."""
    below = sorted({path.parent for path in folder.glob("*/*") if names.epoch_of(path) is not None})
    if below:
        return f"did you mean {below[0]}?"
    return "names such as checkpoint-<e>.pt and index-<i>_epoch-<e>.pt are known"


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
            f"found: {_words(there)}; choose with --start-epoch, --end-epoch and --epoch-step",
        )
    if not kept:
        raise InputError(f"no {what} between epochs {first} and {last}", f"found: {_words(there)}")
    return kept, missing


def _words(epochs: list[int]) -> str:
    if len(epochs) <= 6:
        return ", ".join(map(str, epochs)) or "none"
    return f"{epochs[0]}, {epochs[1]}, {epochs[2]} … {epochs[-1]} ({len(epochs)} epochs)"
