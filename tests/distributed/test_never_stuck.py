"""`--nproc-per-node`: no process outlives its launcher, in whatever phase that is ended, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faults.processes import session

AT_MOST = 10.0  # seconds within which every process is gone

# Where the ranks are when the launcher is ended: a function in which they stay for a while, and which of them do.
PHASES = {
    "starting": ("modeconn_cli.engine.machine.ranks", "join", "01"),
    "meeting": ("modeconn_cli.engine.machine.ranks", "join", "1"),  # rank 0 waits at the store
    "opening": ("modeconn_cli.engine.samples.scoring", "open_run", "01"),
    "locking": ("modeconn_cli.engine.results.jobs", "Lock", "0"),  # rank 1 waits for the leader
    "scoring": ("modeconn_cli.engine.samples.sweep", "Sweep._part", "01"),
    "waiting": ("modeconn_cli.engine.samples.sweep", "Sweep._part", "1"),  # rank 0 has done its share
    "merging": ("modeconn_cli.engine.samples.sweep", "Sweep._finish", "0"),  # rank 1 waits for the leader
    "finishing": ("modeconn_cli.engine.results.jobs", "Job.finish", "0"),
    "leaving": ("modeconn_cli.engine.machine.ranks", "Many.leave", "01"),
    "left": ("modeconn_cli.engine.machine.ranks", "Many.leave", "1"),  # rank 0 has ended
}

# Runs `mcx` with one function that leaves a file behind and stays for a while at some of the ranks.
DRIVER = """
import importlib, os, sys, time
module, name, ranks, seconds, marks = sys.argv[1:6]
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
function = getattr(owner, last)
def stays(*words, **more):
    if os.environ.get("RANK", "-") in ranks:
        open(os.path.join(marks, os.environ["RANK"]), "w").close()
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            time.sleep(0.05)
    return function(*words, **more)
setattr(owner, last, stays)
sys.argv[:6] = ["mcx"]
from modeconn_cli.__main__ import entry
entry()
"""


Staying = Callable[..., tuple[subprocess.Popen[str], float]]


@pytest.fixture
def staying(networks: Path, tmp_path: Path) -> Iterator[Staying]:
    """Start two ranks and end their launcher in a phase; the launcher, and the seconds until all were gone."""
    started: list[subprocess.Popen[str]] = []

    def run(phase: str, how: str, stay: float = 2.0) -> tuple[subprocess.Popen[str], float]:
        module, name, ranks = PHASES[phase]
        (tmp_path / "marks").mkdir(exist_ok=True)
        driver = [sys.executable, "-c", DRIVER, module, name, ranks, str(stay), str(tmp_path / "marks")]
        started.append(
            subprocess.Popen(
                [*driver, *words(networks, tmp_path / "out"), "--nproc-per-node", "2"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        launcher, end = started[-1], time.monotonic() + 60
        while not all((tmp_path / "marks" / rank).exists() for rank in ranks):
            assert launcher.poll() is None, launcher.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.5)
        began = time.monotonic()
        number = signal.Signals[f"SIG{how.removesuffix(' group')}"]
        (os.killpg if how.endswith(" group") else os.kill)(launcher.pid, number)
        while launcher.poll() is None or session(launcher.pid):
            if time.monotonic() - began > AT_MOST:
                break
            time.sleep(0.02)
        return launcher, time.monotonic() - began

    yield run
    for process in started:
        for pid in session(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def words(networks: Path, output: Path) -> list[str | Path]:
    where = ("--checkpoint-dir", networks / "seed0", "--batch-size", "64", "--threads", "1")
    return ["dormant", *where, "--output-dir", output]


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


QUICK = [("leaving", "TERM"), ("merging", "KILL")]
EVERY = [(phase, how) for phase in PHASES for how in ("TERM", "INT", "INT group", "KILL")]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("phase", "how"),
    [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in EVERY if each not in QUICK)],
)
def test_m1_no_process_is_left_after_its_launcher(
    mcx: Callable,
    staying: Staying,
    networks: Path,
    tmp_path: Path,
    record_property: Callable[[str, float], None],
    phase: str,
    how: str,
) -> None:
    launcher, seconds = staying(phase, how)
    record_property("seconds", seconds)
    assert session(launcher.pid) == []
    out, err = launcher.communicate()
    assert "Traceback" not in err
    if how == "KILL":
        assert launcher.returncode == -signal.SIGKILL
    else:
        assert launcher.returncode in (0, 75, 130, 143), err
        assert (launcher.returncode == 0) == ("Dormant units of" in out)
    assert mcx(*words(networks, tmp_path / "out")).code == 0
    assert mcx(*words(networks, tmp_path / "whole")).code == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")


# The launcher alone -----------------------------------------------------------------------------------------

# Two ranks that say where they are and then do `what`; with `alone` the system says nothing of the launcher's end.
LAUNCHER = """
import os, signal, sys, time
from modeconn_cli.engine.machine import launch
what, alone = sys.argv[1:]
if alone == "alone":
    launch._killed_by_the_system = lambda: False
def body():
    if what == "deaf":
        for number in launch.STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    os.write(1, b"here\\n")  # at once, as two write
    if what == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "bug" and os.environ["RANK"] == "1":
        raise LookupError("a bug")
    if what == "done" and os.environ["RANK"] == "0":
        return 0
    time.sleep(60)
    return 0
ended = launch.launch(2, body)
print(ended.code, *(error.message for error in ended.errors), flush=True)
"""


@pytest.fixture
def launched() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A launcher and its two ranks, which have begun."""
    started: list[subprocess.Popen[str]] = []

    def run(what: str, alone: str = "") -> subprocess.Popen[str]:
        words = [sys.executable, "-c", LAUNCHER, what, alone]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(words, text=True, start_new_session=True, **streams))
        assert [started[-1].stdout.readline() for _ in range(2)] == ["here\n"] * 2  # type: ignore[union-attr]
        time.sleep(0.2)
        return started[-1]

    yield run
    for process in started:
        for pid in session(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def gone(process: subprocess.Popen[str]) -> bool:
    """Whether the launcher and all its processes end in time."""
    end = time.monotonic() + AT_MOST
    while (process.poll() is None or session(process.pid)) and time.monotonic() < end:
        time.sleep(0.02)
    return process.poll() is not None and not session(process.pid)


@pytest.mark.distributed
@pytest.mark.parametrize(("what", "alone"), [("frozen", ""), ("deaf", ""), ("sleeping", "alone")])
def test_m1_ranks_that_hear_no_signal_end_with_a_killed_launcher(
    launched: Callable[..., subprocess.Popen[str]], what: str, alone: str
) -> None:
    process = launched(what, alone)
    process.kill()
    assert gone(process)


@pytest.mark.distributed
def test_m1_ranks_that_hear_no_signal_are_killed_in_time(
    launched: Callable[..., subprocess.Popen[str]],
) -> None:
    process = launched("deaf")
    process.terminate()
    assert gone(process)
    assert process.communicate()[0] == "75 stopped stopped\n"


@pytest.mark.distributed
def test_j2_a_bug_in_a_rank_keeps_its_traceback_and_ends_the_others(
    launched: Callable[..., subprocess.Popen[str]],
) -> None:
    process = launched("bug")
    assert gone(process)
    out, err = process.communicate()
    assert (out, err.count("LookupError: a bug"), err.count("Traceback")) == ("1\n", 1, 1)


@pytest.mark.distributed
def test_what_the_leader_has_finished_is_finished(launched: Callable[..., subprocess.Popen[str]]) -> None:
    process = launched("done")
    process.terminate()
    assert gone(process)
    assert process.communicate()[0] == "0\n"
