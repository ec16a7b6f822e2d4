"""Files of other tools that record samples over training: one module per tool, one row each in `FORMATS`.

A file is known by what it holds, not by its name. Each reader gives a `Source`: the columns of `samples/scores.py` as
far as the files have them, streamed epoch by epoch, or scores that they hold themselves, in our definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.samples.foreign import aum, cartography, cleanlab, memorization
from modeconn_cli.engine.samples.foreign.look import Look, look
from modeconn_cli.engine.samples.foreign.source import LOSS, Format, Source, Told, id_map

__all__ = ["FORMATS", "LOSS", "Format", "Source", "Told", "files_of", "id_map", "recognised"]

FORMATS = (
    Format("aum records", aum.is_records, aum.records),
    Format("aum values", aum.is_values, aum.values),
    Format("cartography dynamics", cartography.is_dynamics, cartography.dynamics),
    Format("cartography metrics", cartography.is_metrics, cartography.metrics),
    Format("cleanlab arrays", cleanlab.fits, cleanlab.read),
    Format("memorization scores", memorization.fits, memorization.read),
)


def files_of(named: Sequence[Path]) -> list[Path]:
    """The files that are named, and those of the folders that are. Raises InputError for a folder without any."""
    found: list[Path] = []
    for path in named:
        inside = [path]
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.is_file() and each.name[:1] != ".")
        if not inside:
            raise InputError(f"'{path}' holds no files")
        found += inside
    return found


def recognised(paths: Sequence[Path]) -> tuple[Format, list[Look]]:
    """What kind of files they all are. Raises InputError for one of no kind, SettingsError for several kinds."""
    looks = [look(path) for path in paths]
    kinds: dict[str, Path] = {}
    for each in looks:
        kind = next((kind for kind in FORMATS if kind.fits(each)), None)
        if kind is None:
            shown = ", ".join(each.names[:12]) or f"an array of {each.axes} axes"
            raise InputError(
                f"'{each.path}' is none of the files that are known: {', '.join(kind.name for kind in FORMATS)}",
                f"it holds: {shown}",
            )
        kinds.setdefault(kind.name, each.path)
    if len(kinds) > 1:
        said = "; ".join(f"'{path.name}' holds {name}" for name, path in kinds.items())
        raise SettingsError(f"--from takes files of one kind at a time: {said}", "name those of one kind")
    return next(kind for kind in FORMATS if kind.name in kinds), looks
