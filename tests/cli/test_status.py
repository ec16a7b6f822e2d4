"""`mcx status` for scripts: 0 complete, 75 to be continued, 3 anything else."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def folder(mcx: Callable, networks: Path, tmp_path: Path) -> Path:
    words = ("--checkpoint", networks / "seed0/checkpoint-4.pt", "--max-samples", "20")
    assert mcx("dormant", *words, "--output-dir", tmp_path / "out").code == 0
    return tmp_path / "out"


def job(done: object) -> dict:
    return json.loads(done.out)["jobs"][0]  # type: ignore[attr-defined]


def test_a_complete_job(mcx: Callable, folder: Path) -> None:
    done = mcx("status", folder, "--json")
    assert (done.code, done.err) == (0, "")
    assert (job(done)["job"], job(done)["state"], job(done)["files"]) == ("dormant", "complete", 7)
    assert "complete" in mcx("status", folder).out


def test_a_job_that_was_stopped_or_killed(mcx: Callable, folder: Path) -> None:
    private = folder / ".mcx/dormant"
    (private / "manifest.json").unlink()
    for state, word in (("preempted", "it was stopped"), ("running", "its process has ended")):
        (private / "status.json").write_text(json.dumps({"state": state}))
        done = mcx("status", folder, "--json")
        assert (done.code, job(done)["state"]) == (75, "resumable")
        assert word in done.err
        assert done.err.endswith("; run the same command again\n")


def test_a_job_that_is_running(mcx: Callable, folder: Path) -> None:
    private = folder / ".mcx/dormant"
    (private / "manifest.json").unlink()
    owner = {"pid": os.getppid(), "host": socket.gethostname(), "started": "10:00"}
    (private / "run.lock").write_text(json.dumps(owner))
    done = mcx("status", folder, "--json")
    assert (done.code, job(done)["state"]) == (75, "running")


def test_a_job_that_failed_or_was_damaged(mcx: Callable, folder: Path, tmp_path: Path) -> None:
    (folder / "dormant_props_epoch_4.npy").write_bytes(b"")
    done = mcx("status", folder, "--json")
    assert (done.code, job(done)["state"]) == (3, "damaged")
    assert "dormant_props_epoch_4.npy' is missing or was changed" in done.err
    private = folder / ".mcx/dormant"
    (private / "manifest.json").unlink()
    (private / "status.json").write_text(json.dumps({"state": "failed", "error": "the loss is NaN"}))
    done = mcx("status", folder, "--json")
    assert (done.code, job(done)["state"], "the loss is NaN" in done.err) == (3, "failed", True)
    for place in (tmp_path, tmp_path / "absent"):
        done = mcx("status", place)
        assert (done.code, "holds no job of mcx" in done.err) == (3, True)
    assert mcx("status").code == 2
