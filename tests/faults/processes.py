"""Commands in processes of their own, forked from one that has computed nothing yet, and what they make."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageSequence

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


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and its errors."""

    code: int
    err: str


class Forked:
    """A process that runs `body` in a session of its own; what it says to stderr is kept in a file of `folder`."""

    def __init__(
        self, body: Callable[[], int | None], folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        self._errors = folder / "stderr"
        self.pid = os.fork()
        if self.pid == 0:
            self._live(body, environment or {})

    def _live(self, body: Callable[[], int | None], environment: dict[str, str]) -> None:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started by
            os.environ.update(environment)
            handle = os.open(self._errors, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            code = body() or 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - the process ends here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> Ended:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return Ended(code, self._errors.read_text("utf-8", "replace"))


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                state, _, _, of = (path / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(of) == leader and state not in "ZX":
                    found.append(int(path.name))
    return found


def fresh_copy(study: Path, folder: Path) -> Path:
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(study, work)
    return work


def contents(path: Path, root: Path) -> dict[str, str]:
    """Every file that a command has made, by what it holds apart from times."""
    made = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}*")
    results = [
        each
        for each in made
        if each.is_file() and each.name not in OF_A_RUN and not each.name.startswith("error.rank")
    ]
    return {
        str(each.relative_to(root)): _digest(each)
        for each in results
        if each.suffix != ".jsonl" or each.name == "metrics.jsonl"
    }


def differences(expected: dict[str, str], into: Path, root: Path) -> list[str]:
    """What is wrong with the files that a command has made: other ones, and what was left behind."""
    made = contents(into, root)
    other = sorted(name for name in expected.keys() | made.keys() if expected.get(name) != made.get(name))
    left = [path.name for path in root.rglob(".mcx-*.tmp")]
    return [
        f"{what}: {', '.join(found[:5])}"
        for what, found in (("other files", other), ("left behind", left))
        if found
    ]


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
