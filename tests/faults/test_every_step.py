"""Commands that fail at any step of what they write lose nothing: some steps here, all of them by `make faults`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from faults.commands import CASES

PROGRAM = Path(__file__).with_name("every_step.py")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=False)


def test_a9_some_steps() -> None:
    done = run("--commands", "convert", "--actions", "kill,lost,short", "--every", "3")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", CASES)
def test_a9_more_steps_of_every_command(command: str) -> None:
    done = run("--commands", command, "--actions", "kill", "--every", "53")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_e1_trainings_that_are_killed_six_times_end_with_the_same_files() -> None:
    done = run("--commands", "train,curve train", "--actions", "kill", "--every", "99", "--in-a-row", "6")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_e2_trainings_that_are_killed_at_a_step_of_writing_end_with_the_same_files() -> None:
    done = run("--commands", "train,curve train", "--actions", "kill", "--every", "37")
    assert done.returncode == 0, done.stdout + done.stderr
