"""The table of results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.pairs import Result

HEADS = ("name", "ours", "reference", "ratio", "10-90 %", "limit", "pairs", "verdict")


def duration(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def row(result: Result) -> tuple[str, ...]:
    """One result as text; a dash where there is no reference."""
    low, high = result.spread
    unit = "" if result.reference else " s"
    return (
        result.name,
        duration(float(np.median(result.ours))),
        duration(float(np.median(result.reference))) if result.reference else "–",
        f"{result.median:.3f}" if result.reference else "–",
        f"{low:.2f}-{high:.2f}{unit}",
        f"{result.limit:g}{unit}",
        str(len(result.ours)),
        "ok" if result.within else "over",
    )


def text(results: Sequence[Result]) -> str:
    """Aligned columns, and under them the facts that were counted."""
    rows = [HEADS, *map(row, results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        name, *figures, verdict = (
            cell.ljust(width) if i in (0, len(HEADS) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join([name, *figures, verdict]).rstrip())
    facts = [f"{result.name}: {fact}" for result in results for fact in result.facts]
    return "\n".join([*lines, *([""] if facts else []), *facts])
