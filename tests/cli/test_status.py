"""`mcx status` for scripts: 0 complete, 75 to be continued, 3 anything else."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from modeconn_cli.engine.commands.status import _progress
from modeconn_cli.engine.errors import Stopped
from modeconn_cli.engine.machine.runtime import Runtime, Silent
from modeconn_cli.engine.results import jobs
from modeconn_cli.engine.settings.shared import FolderSettings


@pytest.fixture
def folder(mcx: Callable, networks: Path, tmp_path: Path) -> Path:
    words = ("--checkpoint", networks / "seed0/checkpoint-4.pt", "--max-samples", "20")
    assert mcx("dormant", *words, "--output-dir", tmp_path / "out").code == 0
    return tmp_path / "out"


@pytest.fixture
def tree(mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs of one training, which keeps them below its --output-dir."""
    monkeypatch.chdir(tmp_path)
    words = (
        "--model",
        "mlp",
        "--dataset",
        "digits",
        "--max-samples",
        "100",
        "--epochs",
        "3",
        "--seeds",
        "0,1",
    )
    assert mcx("train", *words, "--save-freq", "1", "--output-dir", "runs", "-q").code == 0
    return Path("runs")


def stop(run: Path, epoch: int, state: str = "preempted") -> None:
    """As a training is left that a signal has stopped after an epoch, or a kill."""
    private = run / ".mcx/train"
    (private / "manifest.json").unlink()
    (private / "status.json").write_text(json.dumps({"state": state}))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:epoch]))
    for later in range(epoch + 1, 4):
        (run / f"checkpoint-{later}.pt").unlink()


def job(done: object) -> dict:
    return json.loads(done.out)["jobs"][0]  # type: ignore[attr-defined]


def test_a_complete_job(mcx: Callable, folder: Path) -> None:
    done = mcx("status", folder, "--json")
    assert (done.code, done.err) == (0, "")
    assert (job(done)["job"], job(done)["state"], job(done)["files"]) == ("dormant", "complete", 9)
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
    (tmp_path / "empty").mkdir()
    for place, said in (("empty", "holds no job of mcx"), ("absent", "does not exist")):
        done = mcx("status", tmp_path / place)
        assert (done.code, f"'{tmp_path / place}' {said}" in done.err) == (3, True)
    assert mcx("status").code == 2


def test_a_tree_of_runs_has_a_line_per_job_at_any_depth(mcx: Callable, tree: Path, tmp_path: Path) -> None:
    (tree / "again").symlink_to(tree.absolute())  # links are not followed: they may lead anywhere
    for place, expected in (("runs", ["seed0", "seed1"]), (".", ["runs/seed0", "runs/seed1"])):
        done = mcx("status", place, "--json")
        assert (done.code, [each["folder"] for each in json.loads(done.out)["jobs"]]) == (0, expected)
    lines = [line.split() for line in mcx("status", "runs").out.splitlines() if "seed" in line]
    assert [line[:5] for line in lines] == [
        [name, "train", "complete", "epoch", "3/3"] for name in ("seed0", "seed1")
    ]


def test_the_command_that_is_named_goes_on_with_a_stopped_run(mcx: Callable, tree: Path) -> None:
    whole = (tree / "seed1/checkpoint-3.pt").read_bytes()
    stop(tree / "seed1", 1)
    done = mcx("status", tree, "--json")
    first, second = json.loads(done.out)["jobs"]
    assert (done.code, first["state"], second["state"]) == (75, "complete", "resumable")
    assert (first["next"], second["progress"]["done"], second["progress"]["total"]) == (None, 1, 3)
    assert "epoch 1/3" in mcx("status", tree).out
    words = second["next"].split()
    assert words == ["mcx", "train", "--config", "runs/seed0/.mcx/train/config.whole.yaml"]
    again = mcx(*words[1:])
    assert again.code == 0
    assert "already complete: runs/seed0" in again.err
    assert "continuing 'runs/seed1' from epoch 1" in again.err
    assert (tree / "seed1/checkpoint-3.pt").read_bytes() == whole
    assert mcx("status", tree).code == 0


def test_a_seed_that_has_not_begun_is_not_forgotten(mcx: Callable, tree: Path) -> None:
    whole = (tree / "seed1/checkpoint-3.pt").read_bytes()
    shutil.rmtree(tree / "seed1")
    done = mcx("status", tree, "--json")
    first, second = json.loads(done.out)["jobs"]
    assert (done.code, first["state"]) == (75, "complete")
    assert (second["folder"], second["state"], second["reason"]) == ("seed1", "resumable", "it has not begun")
    assert mcx(*second["next"].split()[1:], "-q").code == 0
    assert (tree / "seed1/checkpoint-3.pt").read_bytes() == whole
    assert mcx("status", tree).code == 0


def test_the_command_names_the_folder_where_it_is_seen_from_elsewhere(
    mcx: Callable, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(tree / "seed0", 2)
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    words = job(mcx("status", "../runs/seed0", "--json"))["next"].split()
    assert words[-2:] == ["--output-dir", "../runs"]
    assert mcx(*words[1:]).code == 0
    assert (mcx("status", "../runs").code, list((tmp_path / "else").iterdir())) == (0, [])


def test_a_failure_outweighs_what_is_not_yet_done(mcx: Callable, tree: Path) -> None:
    stop(tree / "seed0", 1)
    assert mcx("status", tree).code == 75
    (tree / "seed1/checkpoint-3.pt").write_bytes(b"cut")
    done = mcx("status", tree, "--json")
    assert (done.code, [each["state"] for each in json.loads(done.out)["jobs"]]) == (
        3,
        ["resumable", "damaged"],
    )
    assert json.loads(done.out)["jobs"][1]["next"].endswith(" --no-resume --overwrite")
    (tree / "seed1/.mcx/train/manifest.json").write_text('{"files": [{}]}')
    assert "is no list of a job's files" in mcx("status", tree).err


def test_a_stopped_job_has_said_how_far_it_was_and_how_fast(tmp_path: Path) -> None:
    class Listener(Silent):
        said: ClassVar[list[int]] = []

        def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
            self.said.append(done)

    class Some(FolderSettings):
        pass

    runtime = Runtime(device=None, listener=Listener())
    settings = Some(output_dir=tmp_path)

    def work() -> None:
        with jobs.opened(settings, tmp_path, "some job", runtime):
            for done in (10, 15, 20):
                runtime.part(1, 1, 2).progress(done, 100)
                runtime.hushed().progress(7, 8)  # of a part that is nobody's business
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        work()
    progress = _progress(tmp_path, tmp_path / ".mcx/some-job", {})
    assert progress is not None
    assert (progress.unit, progress.done, progress.total) == ("step", 120, 200)
    assert progress.per_second is not None
    assert progress.per_second > 0
    assert Listener.said == [110, 115, 120]
    with jobs.opened(settings, tmp_path, "some job", runtime) as opened:
        runtime.progress(100, 100)
        opened.finish([])
    assert not (tmp_path / ".mcx/some-job/progress.json").exists()
