"""A disk that is full or goes away while a job writes: exit 5, what is there is whole, the same command goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.commands import CASES, TRAIN
from modeconn_cli.cli import app
from modeconn_cli.engine import names
from modeconn_cli.engine.errors import in_bytes
from modeconn_cli.engine.results import failpoints, files
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.training import space


def _contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may be larger than 4 kB, which a checkpoint is."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a8_e11_a_checkpoint_that_finds_no_space_is_said_and_the_training_goes_on_later(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request
) -> None:
    words = [*TRAIN, "--output-dir", "out"]
    with monkeypatch.context() as patch:
        patch.setenv("MCX_TESTING", "1")
        patch.setenv("MCX_FAILPOINT", "files.write:6=short")
        failpoints._counts.clear()
        assert app.main(words) == 5
    assert "no space left writing 'out/seed0/" in capsys.readouterr().err
    request.getfixturevalue("small_files")
    assert app.main(words) == 5
    said = capsys.readouterr().err
    assert "no space left writing 'out/seed0/checkpoint-" in said
    assert "Traceback" not in said
    assert json.loads(Path("out/seed0/.mcx/train/status.json").read_text())["state"] == "failed"
    assert not list(here.rglob(".mcx-*.tmp"))
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    assert app.main(words) == 0
    assert Path("out/seed0/checkpoint-2.pt").read_bytes() == Path("runs/seed0/checkpoint-2.pt").read_bytes()


def test_m3_a_disk_that_takes_nothing_any_more_ends_the_job_and_the_same_command_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot even remove its lock, as after a remount for reading alone."""
    words, unlink = [*TRAIN, "--output-dir", "out"], Path.unlink

    def refused(path: Path, *more: Any, **options: Any) -> None:
        if path.name == names.LOCK_FILE:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        unlink(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setenv("MCX_TESTING", "1")
        patch.setenv("MCX_FAILPOINT", "files.write:6=eio")
        patch.setattr(Path, "unlink", refused)
        failpoints._counts.clear()
        assert app.main(words) == 5
    said = capsys.readouterr().err
    assert "out/seed0/" in said
    assert "Traceback" not in said
    assert Path("out/seed0/.mcx/train", names.LOCK_FILE).exists()
    assert app.main(words) == 0
    assert Path("out/seed0/checkpoint-2.pt").read_bytes() == Path("runs/seed0/checkpoint-2.pt").read_bytes()


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a8_what_a_disk_refuses_anywhere_is_5_and_no_bug(
    mcx: Callable, pair: list[Path], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(code, os.strerror(code), "where/ever")

    monkeypatch.setattr("modeconn_cli.engine.commands.l2.run", refused)
    done = mcx("l2", *pair)
    assert (done.code, done.out) == (5, "")
    assert f"error: 'where/ever': {os.strerror(code)}" in done.err
    monkeypatch.setattr("modeconn_cli.engine.commands.l2.run", lambda *_: [][0])
    with pytest.raises(IndexError):  # a bug stays one
        mcx("l2", *pair)


def test_a7_a_working_directory_that_was_removed_is_named(
    mcx: Callable, pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = mcx("l2", *pair)
    assert (done.code, done.out) == (3, "")
    assert "error: the working directory is gone" in done.err
    assert mcx("l2", "--help").code == 0


QUICK = ("convert", "swap", "csl score")


@pytest.mark.parametrize(
    "command", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)
def test_a8_a_full_disk_is_said_with_file_and_size_and_leaves_no_part_of_a_file(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """At the first file, and at the last one that there is a write for."""
    case, counted = CASES[command], failpoints._counts
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", "files.write:100000=short")
    counted.clear()
    assert case.run() == 0
    for turn in sorted({1, counted["files.write"]}):
        for path in Path().glob(f"{Path(case.into).stem}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        before = _contents()
        monkeypatch.setenv("MCX_FAILPOINT", f"files.write:{turn}=short")
        counted.clear()
        capsys.readouterr()
        assert case.run() == 5
        said = capsys.readouterr()
        assert said.out == ""
        assert re.search(r"error: no space left writing '[^']+' \(needs \d[\d.]* k?B\)\n", said.err), said.err
        assert "Traceback" not in said.err
        assert not list(here.rglob(".mcx-*.tmp"))
        assert _contents().items() >= before.items()


def test_a8_the_size_that_is_said_is_that_of_the_file(here: Path, capsys, monkeypatch) -> None:
    """torch writes a checkpoint in many pieces, of which the first finds no space already."""
    whole = Path("runs/seed0/checkpoint-2.pt")
    words = ["swap", str(whole), "--model", "mixnet:net", "--output", "out.pt", "-q"]
    assert app.main(words) == 0
    size = Path("out.pt").stat().st_size
    monkeypatch.setenv("MCX_TESTING", "1")
    for place, action in (("files.write:3", "short"), ("files.before_sync:3", "enospc")):
        monkeypatch.setenv("MCX_FAILPOINT", f"{place}={action}")
        failpoints._counts.clear()
        before = Path("out.pt").read_bytes()
        capsys.readouterr()
        assert app.main([*words, "--overwrite"]) == 5
        assert f"no space left writing 'out.pt' (needs {in_bytes(size)})" in capsys.readouterr().err
        assert Path("out.pt").read_bytes() == before


@pytest.mark.parametrize("command", ["train", "csl score"])
def test_a_folder_that_is_removed_ends_the_job(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    case, seen = CASES[command], list[Path]()

    def published(path: Path) -> None:
        seen.append(path)
        if len(seen) == 8:
            shutil.rmtree("out")

    with monkeypatch.context() as patch:
        patch.setattr(files, "published", published)
        assert case.run() == 5
    said = capsys.readouterr().err
    assert "was removed while the job was running" in said
    assert "Traceback" not in said
    assert not list(Path().glob("out/**/*.np[yz]"))
    assert case.run() == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_size_of_checkpoints_is_known_before_they_are_written(here: Path, optimizer: str, capsys) -> None:
    words = [*TRAIN[:-1], "--optimizer", optimizer, "--seeds", "0,1", "--output-dir", "out"]
    assert app.main(words) == 0
    said = capsys.readouterr().err
    assert "checkpoints: 6 x " in said
    assert len(list(Path("out").glob("seed*/checkpoint-*.pt"))) == 6
    net = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300))
    settings = TrainSettings(output_dir=here, optimizer=optimizer, model="mlp", dataset="digits")
    expected = space.checkpoint_bytes(net, settings)
    kind = (
        torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        if optimizer == "sgd"
        else torch.optim.Adam(net.parameters())
    )
    net(torch.randn(4, 300)).sum().backward()
    kind.step()
    with Path("net.pt").open("wb") as stream:
        torch.save({"model_state": net.state_dict(), "optimizer_state": kind.state_dict()}, stream)
    assert expected <= Path("net.pt").stat().st_size <= expected + 8000
