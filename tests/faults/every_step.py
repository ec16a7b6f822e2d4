"""Every command fails at every step of everything it writes, and is run again: what is there then, against a run that
nothing has disturbed. The method of SQLite's tests: fail at the first step, the second, …, until the command ends.

    python tests/faults/every_step.py [--actions kill,torn,enospc] [--commands 'train,curve eval'] [--every 3]
                                [--in-a-row 6]

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
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

from faults.commands import CASES, Case, make_study
from faults.processes import Forked, contents, differences, fresh_copy

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
    words.add_argument("--in-a-row", type=int, default=1, help="failures at random steps before it may end")
    words.add_argument(
        "--part", type=int, nargs=2, default=(1, 1), metavar=("K", "N"), help="each N-th command"
    )
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    part, parts = asked.part
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        assert Forked(lambda: make_study(study), Path(folder)).wait().code == 0
        for command in asked.commands.split(",")[part - 1 :: parts]:
            expected, steps = undisturbed(CASES[command], study, Path(folder))
            for action in asked.actions.split(","):
                found = Outcome(command, action, steps)
                for step in range(1, steps + 1, asked.every):
                    found.tried += 1
                    random = Random(step)
                    more = [random.randint(1, steps // 2) for _ in range(asked.in_a_row - 1)]
                    places = [f"any:{each}={action}" for each in (step, *more)]
                    found.wrong += disturbed(CASES[command], study, Path(folder), places, expected)
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


def disturbed(
    case: Case, study: Path, folder: Path, failpoints: list[str], expected: dict[str, str]
) -> list[str]:
    """What is wrong after failures, one per run, and a run of the same command that nothing disturbs."""
    work = fresh_copy(study, folder)

    def body() -> int:
        os.chdir(work)
        return case.run()

    wrong, failpoint = [], ", ".join(failpoints)
    for each in failpoints:
        ended = Forked(body, folder, {"MCX_TESTING": "1", "MCX_FAILPOINT": each}).wait()
        if ended.code not in (-9, 0, 5) or "Traceback" in ended.err:
            wrong.append(f"{failpoint}: ended with {ended.code} at {each}: {ended.err[-400:]}")
    again = Forked(body, folder).wait()
    if again.code != 0:
        return [*wrong, f"{failpoint}: run again it ends with {again.code}: {again.err[-400:]}"]
    return [*wrong, *(f"{failpoint}: {each}" for each in differences(expected, work / case.into, work))]


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
