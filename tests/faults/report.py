"""The table of what was done to the program, how often, and what was lost, of what `make faults` has found.

    python tests/faults/report.py FOLDER [FILE.md …]

Prints the table; in each file it replaces what stands between the two marks.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.rows import NAMED

BEGIN, END = "<!-- faults: made by tests/faults/report.py -->", "<!-- end of faults -->"


def main(words: list[str]) -> int:
    folder, *places = map(Path, words)
    lines = table(folder)
    print("\n".join(lines))
    for place in places:
        text = place.read_text("utf-8")
        before, _, rest = text.partition(BEGIN)
        _, closed, after = rest.partition(END)
        assert closed, f"{place} has no place for the table"
        said = ["", "The last run of `make faults`:", "", *lines, ""]
        place.write_text("\n".join([before + BEGIN, *said, END + after]), "utf-8")
    return 0


def table(folder: Path) -> list[str]:
    steps = [each for path in sorted(folder.glob("steps*.json")) for each in _read(path)]
    kills = _read(folder / "kills.json")
    fuzzed, (counted, failed) = _read(folder / "fuzz.json"), _rows(folder / "tests.xml")
    commands = len({each["command"] for each in steps})
    return [
        "| what was done | how often | what was lost, mixed or misread, or ended otherwise than it should |",
        "|---|---|---|",
        _line(
            f"power cut, no space or a broken disk at a step of writing of {commands} commands",
            steps,
            "tried",
        ),
        _line(f"ended at a random moment, one process or two, {commands} commands", kills, "kills"),
        f"| a file changed, {fuzzed['formats']} formats | {fuzzed['files']:,} | {len(fuzzed['found'])} |",
        f"| tests of {len(counted)} kinds of faults | {counted.total():,} | {failed} |",
    ]


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _line(what: str, outcomes: list[dict[str, Any]], counted: str) -> str:
    number = sum(each[counted] for each in outcomes)
    return f"| {what} | {number:,} | {sum(len(each['wrong']) for each in outcomes)} |"


def _rows(path: Path) -> tuple[Counter[str], int]:
    """How many tests each row of the matrix has, and how many of them failed."""
    counted, failed = Counter[str](), 0
    for case in ElementTree.parse(path).iter("testcase"):
        if named := NAMED.match(case.get("name", "")):
            if case.find("skipped") is not None:
                continue
            counted.update(named[1].strip("_").split("_"))
            failed += case.find("failure") is not None or case.find("error") is not None
    return counted, failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
