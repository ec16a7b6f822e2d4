"""Commands are ended at random moments, once or several times, by one process or two, and then run to their end: what
is there then, against a run that nothing has disturbed, and whether a process is left.

    python tests/faults/random_kills.py [--kills 300] [--commands 'train,csl score'] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

from faults.commands import CASES, Case, make_study
from faults.processes import Ended, Forked, contents, differences, fresh_copy, session
from modeconn_cli import __main__ as program

RANKED = ("curve eval", "lmc run", "csl score", "curvature", "dormant")
TWO = ["--nproc-per-node", "2", "--threads", "1"]
RESULTS = {".npy", ".npz", ".csv", ".pt", ".png", ".gif"}
AT_MOST = 10.0  # seconds after which no process may be left
ALONE = ("KILL", "KILL", "KILL", "TERM", "INT", "USR1", "TERM TERM")
TOGETHER = ("KILL launcher", "KILL rank", "KILL all", "TERM launcher", "INT all", "USR1 rank", "TERM all")
# 0: it had ended; 75: saved; 130 and 143: nothing to save; the launcher says that a rank was ended by a signal (137,
# 138), and one that comes before anything is imported has its usual effect.
EXPECTED = {0, 75, 130, 137, 138, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1}


@dataclass
class Outcome:
    """What came of one command that was ended at random moments."""

    command: str
    ranks: int
    kills: int = 0  # that were sent to a process that was still at work
    slowest: float = 0.0  # seconds until all processes were gone
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("--kills", type=int, default=60)
    words.add_argument("--commands", default=",".join(CASES))
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    print(f"seed {asked.seed}", flush=True)
    names = asked.commands.split(",")
    jobs = [(name, 1) for name in names] + [(name, 2) for name in names if name in RANKED] * 2
    found: dict[tuple[str, int], Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        assert Forked(lambda: make_study(study), Path(folder)).wait().code == 0
        for number, (name, ranks) in enumerate(jobs):
            found.setdefault((name, ranks), Outcome(name, ranks))
            share = asked.kills * (number + 1) // len(jobs) - asked.kills * number // len(jobs)
            seeded = random.Random(f"{asked.seed} {number}")
            one = _Command(CASES[name], ranks, study, Path(folder), found[name, ranks], seeded)
            one.end_it(share)
            print(_line(found[name, ranks]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in found.values()], indent=2))
    print(
        f"{sum(each.kills for each in found.values())} kills, {sum(len(each.wrong) for each in found.values())} wrong"
    )
    return any(each.wrong for each in found.values())


def _line(outcome: Outcome) -> str:
    said = f"{outcome.command:18} {outcome.ranks} ranks {outcome.kills:4} kills, {len(outcome.wrong)} wrong"
    return "\n".join([f"{said}, all gone after {outcome.slowest:.1f} s at most", *outcome.wrong[:5]])


class _Command:
    """A command that is ended again and again."""

    def __init__(
        self, case: Case, ranks: int, study: Path, folder: Path, outcome: Outcome, seeded: random.Random
    ) -> None:
        self._case, self._ranks, self._study, self._folder = case, ranks, study, folder
        self._outcome, self._random = outcome, seeded
        self._expected, self._lasts = self._undisturbed(ranks)
        if ranks > 1:  # they make what one makes, apart from what says how
            alone, _ = self._undisturbed(1)
            other = [
                name
                for name in alone
                if alone[name] != self._expected.get(name) and Path(name).suffix in RESULTS
            ]
            outcome.wrong += [f"undisturbed, one process makes another {name}" for name in other]

    def end_it(self, kills: int) -> None:
        """End it at random moments, until it was ended so often; run it to its end after one, two or three of them."""
        left, tries = kills, 10 * kills
        while left > 0 and tries > 0:
            self._work = fresh_copy(self._study, self._folder)
            story = []
            for _ in range(self._random.choice((1, 1, 2, 3))):
                tries -= 1
                hit, said = self._end_once()
                story.append(said)
                left -= hit
            self._compare(self._start(self._ranks).wait(), "; ".join(story))

    def _undisturbed(self, ranks: int) -> tuple[dict[str, str], float]:
        """What the command makes, and the seconds that it takes."""
        self._work, began = fresh_copy(self._study, self._folder), time.monotonic()
        ended = self._start(ranks).wait()
        assert ended.code == 0, ended.err
        return contents(self._work / self._case.into, self._work), time.monotonic() - began

    def _start(self, ranks: int) -> Forked:
        case = self._case
        words = [*case.words, "--output-dir" if case.job else "--output", case.into]

        def body() -> None:
            os.chdir(self._work)
            sys.argv = ["mcx", *words, *(TWO if ranks > 1 else ())]
            program.entry()

        return Forked(body, self._folder)

    def _end_once(self) -> tuple[bool, str]:
        """Whether it was still at work when it was ended, and what was done."""
        process = self._start(self._ranks)
        moment = self._random.uniform(0.0, self._lasts)
        how = self._random.choice(TOGETHER if self._ranks > 1 else ALONE)
        time.sleep(moment)
        at_work = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        self._send(process.pid, how)
        began = time.monotonic()
        gone = _wait_for(process.pid)
        taken = time.monotonic() - began
        said = f"{how} after {moment:.3f} s"
        ended = process.wait() if gone else Ended(-1, "")
        if not gone:
            self._outcome.wrong.append(f"{said}: processes are left after {AT_MOST:.0f} s")
        elif ended.code not in EXPECTED or "Traceback" in ended.err:
            self._outcome.wrong.append(f"{said}: {ended.code}: {ended.err[-600:]}")
        self._outcome.kills += at_work
        self._outcome.slowest = max(self._outcome.slowest, taken)
        return at_work, f"{said} ({ended.code})"

    def _send(self, leader: int, how: str) -> None:
        first, _, second = how.partition(" ")
        number = signal.Signals[f"SIG{first}"]
        with suppress(ProcessLookupError):
            if second == "all":
                os.killpg(leader, number)
            elif second == "rank":
                os.kill(
                    self._random.choice([pid for pid in session(leader) if pid != leader] or [leader]), number
                )
            else:
                os.kill(leader, number)
            if second == "TERM":
                time.sleep(self._random.uniform(0.001, 0.15))
                os.kill(leader, number)

    def _compare(self, ended: Ended, story: str) -> None:
        if ended.code != 0 or "Traceback" in ended.err:
            self._outcome.wrong.append(f"{story}: run again it ends with {ended.code}: {ended.err[-600:]}")
            return
        found = differences(self._expected, self._work / self._case.into, self._work)
        self._outcome.wrong += [f"{story}: {each}" for each in found]


def _wait_for(leader: int) -> bool:
    """Whether every process of the session is gone in time; those that are not are killed."""
    end = time.monotonic() + AT_MOST
    while session(leader):
        if time.monotonic() > end:
            for pid in session(leader):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(leader, 0)
            return False
        time.sleep(0.01)
    return True


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
