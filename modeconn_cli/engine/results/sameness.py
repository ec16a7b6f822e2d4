"""Is a result that was made then the one that would be made now? By settings and the content of all that is read."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from modeconn_cli.engine import names
from modeconn_cli.engine.results import records
from modeconn_cli.engine.results.records import Provenance
from modeconn_cli.engine.settings.base import Settings, Spec, plain, specs
from modeconn_cli.engine.settings.shared import MeasuredDataSettings

# The entry of a provenance's data that is no hash, and that which label noise changes.
NAME, LABELS = "data set", "set of training labels"


def difference(
    old: Mapping[str, Any], new: Provenance, settings: Settings, unread: Collection[str] = ()
) -> str:
    """What makes a result of an old record another one than a new result; empty where nothing does.

    It is a setting, or an input by its content. Settings that are free or have no effect do not count, nor does what a
    checkpoint has brought where the old record left it unsaid.
    """
    then, idle = {**defaults(settings), **records.settings_of(old)}, {*settings.idle(), *unread}
    parts = set(new.data) - {NAME}
    if "seed" in idle and getattr(settings, "flips_by_seed", False):
        parts.discard(LABELS)  # which the seed decides that nobody reads
    if new.data and old.get("data") == new.data:
        idle |= {
            spec.name for spec in specs(MeasuredDataSettings)
        }  # the same samples, whatever they are called
    for spec in specs(type(settings)):
        before, now = then[spec.name], new.settings.get(spec.name)
        if spec.name in settings.brought and before in (None, []):
            continue
        counts = spec.name not in idle or before in spec.effective or now in spec.effective
        if spec.change == "same" and counts and not _alike(spec, before, now):
            return f"'{spec.name}' was {before}, now {now}"
    if changed_data := _data_changed(old, new, parts):
        return changed_data
    hashes = [entry["sha256"] for entry in old.get("inputs", [])]
    if len(hashes) != len(new.inputs):
        return f"the job began with {len(hashes)} input files, now {len(new.inputs)}"
    changed = (each for each, hash_ in zip(new.inputs, hashes, strict=True) if each.content.sha256 != hash_)
    return next((f"'{each.path}' is not the file the job began with" for each in changed), "")


def _data_changed(old: Mapping[str, Any], new: Provenance, parts: Collection[str]) -> str:
    """Which of the `parts` of the data is not what it was; empty where none is, and where a record does not say."""
    then = old.get("data") or {}
    for part, now in new.data.items():
        if part in parts and then.get(part, now) != now:
            return f"the {part} in '{new.data[NAME]}' is not what it was: {then[part][:12]}…, now {now[:12]}…"
    return ""


def code_changed(old: Mapping[str, Any], new: Provenance) -> str:
    """Which source file of the user's own network has changed: its content may or may not matter to a result."""
    then = old.get("code") or {}
    changed = [name for name, now in new.code.items() if then.get(name, now) != now]
    return f"the source file of {' and '.join(changed)} has changed since then" if changed else ""


def defaults(settings: Settings) -> dict[str, Any]:
    """A record of before a setting existed was made with its default."""
    return {spec.name: plain(spec.default) for spec in specs(type(settings))}


def _alike(spec: Spec, before: Any, after: Any) -> bool:
    """Whether a setting is what it was; a name may be spelled in another way, and a file may lie elsewhere: its content
    is compared.
    """
    if spec.canonical is not None and before:
        return bool(spec.canonical(before) == after)
    if spec.kind is Path and not spec.many and before and after:
        if not (spec.absent or spec.adds_up) and names.file_of(Path(after).expanduser()).is_file():
            return True
        first, second = (os.path.abspath(os.path.expanduser(str(path))) for path in (before, after))
        return first == second
    return bool(before == after)
