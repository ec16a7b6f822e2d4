"""Which split a folder's arrays were scored on, as its records say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import records

# Recorded split -> the file whose ids it has: the splits of the training file share them.
FILES = {"fit": "train", "val": "train", "all-train": "train", "train": "train", "test": "test"}
SUMMARIES = {
    "csl": "csl_score_*.json",
    "curvature": "curvature_summary_*.json",
    "dormant": "dormant_summary_*.json",
}


def of(folder: Path, kinds: Iterable[str]) -> str:
    """`train`, `test`, or empty where the folder's records of these kinds say nothing.

    Raises InputError where they contradict each other.
    """
    found = _said(folder, tuple(kinds), follow=True)
    if len(found) > 1:
        raise InputError(
            f"the records in '{folder}' name training and test samples", "keep them in two folders"
        )
    return next(iter(found), "")


def _said(folder: Path, kinds: tuple[str, ...], follow: bool) -> set[str]:
    found: set[str] = set()
    for kind in kinds:
        for path in sorted(folder.glob(SUMMARIES[kind])):
            found.add(FILES.get(str(records.peek_object(path).get("split")), ""))
        for path in sorted((folder / names.JOB_FOLDER).glob(f"{kind}*/{names.RECORD_FILE}")):
            if path.parent.name == "curvature-sweep":
                continue  # its samples need not be those of the arrays
            settings = records.peek_object(path).get("settings")
            if not isinstance(settings, dict):
                continue
            found.add(FILES.get(str(settings.get("split")), ""))
            if follow and settings.get("input_dir"):  # an aggregation knows only where the scores lie
                found |= _said(Path(settings["input_dir"]).expanduser(), (kind,), follow=False)
    return found - {""}
