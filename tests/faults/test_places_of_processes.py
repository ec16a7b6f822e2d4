"""What variables of launchers and schedulers make of a single command, before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.commands import CASES

SHARED = ("csl score", "curvature", "dormant", "memo", "curve eval", "lmc run", "lmc interpolate")
QUICK = ("dormant",)
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
WRONG = {
    "a rank beyond": {"RANK": "5"},
    "a negative rank": {"RANK": "-1"},
    "a rank that is text": {"RANK": "x"},
    "no rank": {"RANK": None},
    "no address": {"MASTER_ADDR": None},
    "a port that is text": {"MASTER_PORT": "http"},
    "no ranks at all": {"WORLD_SIZE": "0"},
    "fewer than none": {"WORLD_SIZE": "-1"},
    "a number that is text": {"WORLD_SIZE": "two"},
    "a place that is text": {"LOCAL_RANK": "x"},
}


def commands(quick: tuple[str, ...]) -> list[object]:
    return [each if each in quick else pytest.param(each, marks=pytest.mark.slow) for each in SHARED]


@pytest.mark.parametrize("command", commands(QUICK))
def test_j1_variables_that_contradict_each_other_are_refused_at_once(
    mcx: Callable, here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words = (*CASES[command].words, "--output-dir", "out")
    for what, change in WRONG.items():
        with monkeypatch.context() as patch:
            for name, value in {**TORCHRUN, **change}.items():
                if value is not None:
                    patch.setenv(name, value)
            done = mcx(*words)
        assert (done.code, done.out) == (2, ""), (what, done.err)
        assert "start with torchrun" in done.err or "--dist off" in done.err, (what, done.err)
        assert len([line for line in done.err.splitlines() if "error:" in line]) == 1
        assert not Path("out").exists()


@pytest.mark.parametrize("command", commands(QUICK))
def test_j6_variables_of_slurm_in_an_interactive_shell_leave_one_process(
    mcx: Callable, here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shell = {
        "SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODELIST": "n1",
        "SLURM_JOB_NODELIST": "n1",
    }  # fmt: skip
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    done = mcx(*CASES[command].words, "--output-dir", "out")
    assert done.code == 0, done.err
    assert Path("out").is_dir()
