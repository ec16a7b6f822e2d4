"""Every command fails at every step of everything it writes, and is run again: what is there then, against a run that
nothing has disturbed. The method of SQLite's tests: fail at the first step, the second, …, until the command ends.

    python tests/faults/every_step.py [--actions kill,torn,enospc] [--commands 'train,curve eval'] [--every 3]

Prints a line per command and action, and with --json a document of them all. Each run is a fork of this process, which
has imported torch and has computed nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

from faults.commands import CASES, Case, make_study
from faults.processes import Forked, contents, fresh_copy

ACTIONS = ("kill", "torn", "lost", "enospc", "short", "eio")
MOST = 100_000


@dataclass
class Outcome:
    """What came of one command that fails in one way at step after step."""

    command: str
    action: str
    steps: int = 0  # that the command has
    tried: int = 0
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("--actions", default=",".join(ACTIONS))
    words.add_argument("--commands", default=",".join(CASES))
    words.add_argument("--every", type=int, default=1)
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        assert Forked(lambda: make_study(study), Path(folder)).wait().code == 0
        for command in asked.commands.split(","):
            expected, steps = undisturbed(CASES[command], study, Path(folder))
            for action in asked.actions.split(","):
                found = Outcome(command, action, steps)
                for step in range(1, steps + 1, asked.every):
                    found.tried += 1
                    found.wrong += disturbed(
                        CASES[command], study, Path(folder), f"any:{step}={action}", expected
                    )
                outcomes.append(found)
                print(
                    f"{command:18} {action:7} {found.tried:4} of {steps} steps, {len(found.wrong)} wrong",
                    flush=True,
                )
                for wrong in found.wrong[:5]:
                    print(f"    {wrong}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=2))
    return any(each.wrong for each in outcomes)


def undisturbed(case: Case, study: Path, folder: Path) -> tuple[dict[str, str], int]:
    """What the command makes, and at how many steps it can fail."""
    work, counted = fresh_copy(study, folder), folder / "count"

    def body() -> int:
        from modeconn_cli.engine.results import failpoints

        os.chdir(work)
        code = case.run()
        counted.write_text(str(failpoints._counts["any"]))
        return code

    ended = Forked(body, folder, {"MCX_TESTING": "1", "MCX_FAILPOINT": f"any:{MOST}=kill"}).wait()
    assert ended.code == 0, ended.err
    return contents(work / case.into, work), int(counted.read_text())


def disturbed(case: Case, study: Path, folder: Path, failpoint: str, expected: dict[str, str]) -> list[str]:
    """What is wrong after a failure and a run of the same command."""
    work = fresh_copy(study, folder)

    def body() -> int:
        os.chdir(work)
        return case.run()

    first = Forked(body, folder, {"MCX_TESTING": "1", "MCX_FAILPOINT": failpoint}).wait()
    wrong = []
    if first.code not in (-9, 0, 5) or "Traceback" in first.err:
        wrong.append(f"{failpoint}: ended with {first.code}: {first.err[-400:]}")
    again = Forked(body, folder).wait()
    if again.code != 0:
        return [*wrong, f"{failpoint}: run again it ends with {again.code}: {again.err[-400:]}"]
    made = contents(work / case.into, work)
    other = sorted(name for name in expected.keys() | made.keys() if expected.get(name) != made.get(name))
    if other:
        wrong.append(f"{failpoint}: other files: {', '.join(other[:5])}")
    left = [path.name for path in work.rglob(".mcx-*.tmp")]
    if left:
        wrong.append(f"{failpoint}: left behind: {', '.join(left[:5])}")
    return wrong


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
