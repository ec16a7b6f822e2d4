"""The folder of several pairs as the command has left it: the same command returns what is there and measures nothing.

Any doubt (another setting or input, a file that is gone or was touched) and the pairs are measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modeconn_cli.engine.commands.l2.chosen import Chosen
from modeconn_cli.engine.commands.l2.summary import L2ManyResult, SummaryRow
from modeconn_cli.engine.commands.l2.trajectory import Waypoint
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, hashes, jobs, logs, records, strict_json
from modeconn_cli.engine.results.jobs import drawn_otherwise
from modeconn_cli.engine.results.sameness import defaults, difference
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.l2 import L2Settings

FINISHED = "finished.json"


def found(chosen: Chosen, settings: L2Settings, runtime: Runtime) -> L2ManyResult | None:
    """What the same command has found of the same checkpoints; None where anything is not as it was.

    What asks for data, a network or the swaps of others is measured again, as only they tell whether they are the same.
    """
    folder = settings.output_dir
    elsewhere = settings.needs_data or settings.permuted or settings.model is not None
    if folder is None or settings.overwrite or elsewhere:
        return None
    said = records.peek_object(jobs.private_folder(folder, "l2") / FINISHED)
    if not said:
        return None
    now = records.provenance(settings, "l2", runtime.opened, chosen.paths.values())
    try:
        if list(said["result"]["checkpoints"].values()) != [tilde(path) for path in chosen.paths.values()]:
            return None
        then = {**defaults(settings), **records.settings_of(said["provenance"])}
        if difference(said["provenance"], now, settings) or drawn_otherwise(then, settings):
            return None
        if any(_stamp(folder / name) != version for name, *version in said["files"]):
            return None
        return _result(said["result"], tilde(folder))
    except (LookupError, TypeError, ValueError, AttributeError):  # it is not what was written
        return None


def _result(said: Mapping[str, Any], folder: str) -> L2ManyResult:
    waypoints = said["trajectory"]
    return L2ManyResult(
        checkpoints=said["checkpoints"],
        metrics=tuple(said["metrics"]),
        columns=tuple(said["columns"]),
        pairs=tuple(logs.record(SummaryRow, row) for row in said["pairs"]),
        trajectory=None if waypoints is None else tuple(logs.record(Waypoint, each) for each in waypoints),
        include_buffers=said["include_buffers"],
        data=said["data"],
        output_dir=folder,
    )


def keep(
    folder: Path,
    result: L2ManyResult,
    made: Iterable[Path],
    chosen: Chosen,
    settings: L2Settings,
    runtime: Runtime,
) -> None:
    """Write down what was found and which files were made of it; nothing of a folder in which a pair is missing."""
    path = jobs.private_folder(folder, "l2") / FINISHED
    if any(row.status != "ok" for row in result.pairs):
        path.unlink(missing_ok=True)
        return
    document = {
        "schema": "mcx.l2_finished/1",
        "provenance": vars(records.provenance(settings, "l2", runtime.opened, chosen.paths.values())),
        "files": [[each.name, *_stamp(each)] for each in made],
        "result": {**result.fields(), "pairs": [_said(row) for row in result.pairs]},
    }
    plain = records.strict(document)
    if "nonfinite" in plain:  # JSON holds no such numbers: they are measured again
        path.unlink(missing_ok=True)
    else:
        files.write_text(path, strict_json.text(plain, indent=None))


def _said(row: SummaryRow) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if value is not None}


def _stamp(path: Path) -> list[int]:
    """Size, time and number of a file; empty for one that is not there."""
    try:
        return list(hashes.stamp(os.stat(path)))
    except OSError:
        return []
