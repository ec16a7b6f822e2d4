"""Which epochs of a run are meant."""

from __future__ import annotations

from collections.abc import Iterable

from modeconn_cli.engine.errors import InputError, SettingsError


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
