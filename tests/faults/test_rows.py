"""Every row of the fault matrix has a test that is named after it."""

from __future__ import annotations

from pathlib import Path

from faults.rows import NAMED, ROWS

TESTS = Path(__file__).parents[1]


def test_every_row_is_tested() -> None:
    named = {
        row.upper()
        for path in TESTS.rglob("test_*.py")
        for rows in NAMED.findall(path.read_text("utf-8"))
        for row in rows.strip("_").split("_")
    }
    assert sorted(ROWS.keys() - named) == []
    assert sorted(named - ROWS.keys()) == []  # names that stand for no row
