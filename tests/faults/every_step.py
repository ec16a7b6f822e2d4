"""Every command fails at every step of everything it writes, and is run again: what is there then, against a run that
nothing has disturbed. The method of SQLite's tests: fail at the first step, the second, …, until the command ends.

    python tests/faults/every_step.py [--actions kill,torn,enospc] [--commands 'train,curve eval'] [--every 3]

Prints a line per command and action, and with --json a document of them all. Each run is a fork of this process, which
has imported torch and has computed nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageSequence

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

from faults.commands import CASES, Case, make_study

ACTIONS = ("kill", "torn", "lost", "enospc", "short", "eio")
# What says when something was made, and how long it took.
TIMES = {
    "time",
    "end",
    "host",
    "seconds",
    "samples_per_second",
    "git_commit",
    "modified",
    "mtime_ns",
    "trained_epochs",
}
OF_A_RUN = {
    "status.json",
    "progress.json",
    "run.lock",
    "manifest.json",
    "run.json",
    "kept.jsonl",
    "inputs.txt",
}
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
        assert in_a_fork(lambda: make_study(study), Path(folder)).code == 0
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


@dataclass(frozen=True)
class Ended:
    code: int
    err: str


def in_a_fork(
    body: Callable[[], int | None], folder: Path, environment: dict[str, str] | None = None
) -> Ended:
    """A process of its own; negative codes are signals."""
    errors = folder / "stderr"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.environ.update(environment or {})
            handle = os.open(errors, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            code = body() or 0
        except BaseException:  # noqa: BLE001 - the process ends here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), errors.read_text())


def undisturbed(case: Case, study: Path, folder: Path) -> tuple[dict[str, str], int]:
    """What the command makes, and at how many steps it can fail."""
    work, counted = _fresh(study, folder), folder / "count"

    def body() -> int:
        from modeconn_cli.engine.results import failpoints

        os.chdir(work)
        code = case.run()
        counted.write_text(str(failpoints._counts["any"]))
        return code

    ended = in_a_fork(body, folder, {"MCX_TESTING": "1", "MCX_FAILPOINT": f"any:{MOST}=kill"})
    assert ended.code == 0, ended.err
    return contents(work / case.into, work), int(counted.read_text())


def disturbed(case: Case, study: Path, folder: Path, failpoint: str, expected: dict[str, str]) -> list[str]:
    """What is wrong after a failure and a run of the same command."""
    work = _fresh(study, folder)

    def body() -> int:
        os.chdir(work)
        return case.run()

    first = in_a_fork(body, folder, {"MCX_TESTING": "1", "MCX_FAILPOINT": failpoint})
    wrong = []
    if first.code not in (-9, 0, 5) or "Traceback" in first.err:
        wrong.append(f"{failpoint}: ended with {first.code}: {first.err[-400:]}")
    again = in_a_fork(body, folder)
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


def _fresh(study: Path, folder: Path) -> Path:
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(study, work)
    return work


def contents(path: Path, root: Path) -> dict[str, str]:
    """Every file that a command has made, by what it holds apart from times."""
    made = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}*")
    results = [each for each in made if each.is_file() and each.name not in OF_A_RUN]
    return {
        str(each.relative_to(root)): _digest(each)
        for each in results
        if each.suffix != ".jsonl" or each.name == "metrics.jsonl"
    }


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = _plain(json.loads(content))
    elif path.suffix == ".jsonl":
        content = _plain([json.loads(line) for line in content.splitlines()])
    elif path.suffix == ".pt":
        content = _plain(torch.load(path, weights_only=True))
    elif path.suffix in (".gif", ".png"):
        with Image.open(path) as image:
            content = b"".join(frame.tobytes() for frame in ImageSequence.Iterator(image))
    return hashlib.sha256(content).hexdigest()


def _plain(value: object) -> bytes:
    return json.dumps(_timeless(value), sort_keys=True, default=lambda tensor: tensor.tolist()).encode()


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
