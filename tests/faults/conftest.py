"""Whole processes for faults: forked ones, which need not import torch again, and fresh ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from faults.commands import make_study
from modeconn_cli import __main__ as program
from modeconn_cli.engine.results import failpoints


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and what it wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def study(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Files of every kind that commands read."""
    return made_once("mixed", make_study)


@pytest.fixture
def here(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, which is the working directory."""
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "mixnet", raising=False)
    return folder


@pytest.fixture
def forked(tmp_path: Path) -> Run:
    """Run `mcx` in a forked process, with `before` called in it; `stdout` and `stderr` may be file descriptors."""

    def run(
        words: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        before: Callable[[], Any] = lambda: None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Ended:
        streams = [tmp_path / ".stdout", tmp_path / ".stderr"]
        targets = [
            os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY) if given is None else given
            for path, given in zip(streams, (stdout, stderr), strict=True)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 dislikes forks of threads
            pid = os.fork()
        if pid == 0:
            _child([str(word) for word in words], dict(environment or {}), before, targets)
        _, status = os.waitpid(pid, 0)
        texts = [path.read_text("utf-8") if path.exists() else "" for path in streams]
        for path, given, target in zip(streams, (stdout, stderr), targets, strict=True):
            if given is None:
                os.close(target)
                path.unlink()
        return Ended(os.waitstatus_to_exitcode(status), *texts)

    return run


def _child(
    words: list[str], environment: Mapping[str, str], before: Callable[[], Any], targets: list[int]
) -> None:
    code = 99
    try:
        os.environ.update(environment)
        failpoints._counts.clear()
        for number, target in enumerate(targets, start=1):
            os.dup2(target, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        sys.argv = ["mcx", *words]
        before()
        program.entry()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - the traceback is what the test looks for
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = 120  # what Python makes of it
        os._exit(code)


@pytest.fixture
def stopped_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AbstractContextManager[None]]:
    """While the context lasts, this process fails at a place, as `MCX_FAILPOINT` names it."""

    @contextmanager
    def failing(place: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "_counts", {})
            patch.setenv("MCX_TESTING", "1")
            patch.setenv("MCX_FAILPOINT", place)
            yield

    return failing


@pytest.fixture
def fresh() -> Run:
    """Run Python code or `mcx` in a new process, which should not need torch."""

    def run(*words: str | Path, environment: Mapping[str, str] | None = None, **how: Any) -> Ended:
        command = [sys.executable, *(("-m", "modeconn_cli") if words[0] != "-c" else ()), *map(str, words)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
        done = subprocess.run(
            command,
            env={**inherited, **(environment or {})},
            capture_output=True,
            check=False,
            timeout=60,
            **how,
        )
        return Ended(
            done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    return run


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two small checkpoints."""
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for k, path in enumerate(paths):
        with path.open("wb") as stream:
            torch.save({"model_state": {"fc.weight": torch.arange(6.0) * (k + 1)}}, stream)
    return paths


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Small images of two classes: 16 to train on, 4 to test on."""
    random = np.random.default_rng(0)
    for number in range(20):
        file = tmp_path / f"pictures/{'val' if number < 4 else 'train'}/{number % 2}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8)).save(file)
    return tmp_path / "pictures"
