"""Devices that are not there, memory that runs out, libraries that do not fit each other: for every command."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from faults.commands import CASES
from modeconn_cli.cli.commands import named
from modeconn_cli.cli.complete import settings_of
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.settings.base import specs


def each(quick: Collection[str], among: Collection[str] = CASES) -> pytest.MarkDecorator:
    marked = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in among]
    return pytest.mark.parametrize("command", marked)


def called(command: str) -> str:
    """The words of a command, of which there are several cases."""
    return named(CASES[command].words)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# A16 ------------------------------------------------------------------------------------------------------

COMPUTING = [name for name in CASES if any(s.name == "device" for s in specs(settings_of(called(name))))]


@pytest.mark.parametrize("command", COMPUTING)
def test_a16_no_command_begins_on_a_device_that_is_not_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(nn.Linear, "forward", lambda *_: pytest.fail("it has begun to work"))
    for device in ("cuda", "cuda:7", "mps", "gpu", "cuda:-1", "cpu:3"):
        capsys.readouterr()
        assert replace(CASES[command], words=[*CASES[command].words, "--device", device]).run() == 2
        said = capsys.readouterr()
        assert said.out == ""
        error, hint = said.err.splitlines()
        assert device.partition(":")[0].upper() in error.upper()
        assert "cpu" in hint
    assert not list(Path().glob("out*"))


@each(("l2", "swap"), COMPUTING)
def test_a16_auto_takes_the_cpu_where_there_is_nothing_else(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert replace(CASES[command], words=[*CASES[command].words, "--device", "auto"]).run() == 0


# A17 ------------------------------------------------------------------------------------------------------

BROKEN = {
    "another torch": "raise RuntimeError('operator torchvision::nms does not exist')",
    "a library": "raise ImportError('libtorch.so: undefined symbol')",
    "a file": "raise OSError('libcudart.so.12: cannot open shared object file')",
}


@pytest.fixture
def unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A torchvision whose import fails."""
    package = tmp_path / "unfit/torchvision"
    package.mkdir(parents=True)
    kind = getattr(request, "param", "another torch")
    (package / "__init__.py").write_text(BROKEN[kind] + "\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)


@each(("l2", "swap", "train"))
def test_a17_commands_that_need_no_torchvision_do_without(here: Path, unfit: None, command: str) -> None:
    assert CASES[command].run() == 0


@pytest.mark.parametrize("unfit", BROKEN, indirect=True)
@pytest.mark.parametrize(
    "words",
    [["--model", "mlp", "--dataset", "mnist"], ["--model", "torchvision:resnet18", "--dataset", "digits"]],
    ids=["data", "network"],
)
def test_a17_those_that_need_it_name_both_versions(
    mcx, tmp_path: Path, unfit: None, words: list[str]
) -> None:
    done = mcx("train", *words, "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (3, "")
    error, hint = done.err.splitlines()
    found = importlib.metadata.version("torchvision")
    assert error.startswith(f"mcx train: error: torchvision {found} does not fit torch {torch.__version__}: ")
    assert "pip install --upgrade torch torchvision" in hint
    assert not (tmp_path / "out").exists()


# A21 ------------------------------------------------------------------------------------------------------

STILL = (
    "curve analyze",
    "correlate",
    "animate",
    "convert",
    "align",
    "align several",
)  # call no layer on batches
RUNNING = [name for name in CASES if name not in STILL]


BATCH = 20  # images that are no trial of a network


class Memory:
    """Counts the batches that a layer is given, and runs out from that number on which is `last`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.last = 0, 0
        forward = nn.Linear.forward

        def counted(layer: nn.Linear, images: torch.Tensor) -> torch.Tensor:
            if torch.compiler.is_exporting() or len(images) < BATCH:
                return forward(layer, images)
            self.count += 1
            if 0 < self.last <= self.count:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return forward(layer, images)

        monkeypatch.setattr(nn.Linear, "forward", counted)


@each(("csl score", "train", "curve eval line"), RUNNING)
def test_a21_memory_that_runs_out_names_a_batch_size_and_finished_work_is_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    case, memory = CASES[command], Memory(monkeypatch)
    assert case.run() == 0
    whole, calls = contents(Path()), memory.count
    assert calls > 1
    for last in sorted({1, calls // 2, calls}):
        for path in Path().glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        before = contents(Path())
        memory.count, memory.last = 0, last
        capsys.readouterr()
        assert case.run() == 3, last
        said = capsys.readouterr()
        assert said.out == ""
        assert "error: memory has run out: CUDA out of memory" in said.err
        assert "--batch-size" in said.err
        assert "Traceback" not in said.err
        assert contents(Path()).items() >= before.items()
        states = [json.loads(path.read_text())["state"] for path in Path().glob("out/**/status.json")]
        assert states in ([], ["failed"], ["complete"] if last == calls else [])
    memory.last = 0
    assert case.run() == 0, capsys.readouterr().err
    arrays = {name for name in whole if name.startswith("out/") and name.endswith((".npy", ".npz", ".pt"))}
    assert {name: Path(name).read_bytes() for name in arrays} == {name: whole[name] for name in arrays}


@pytest.mark.parametrize("command", ["csl score", pytest.param("dormant", marks=pytest.mark.slow)])
def test_a21_epochs_that_were_scored_before_are_not_scored_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    case, take_up = CASES[command], ScoredRun.take_up

    def full(run: ScoredRun, epoch: int) -> Checkpoint:
        found = take_up(run, epoch)
        if epoch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ScoredRun, "take_up", full)
        assert case.run() == 3
    finished = [path for path in Path("out").glob("*_epoch_[01]*.npy") if path.is_file()]
    assert finished
    assert not list(Path("out").glob("*_epoch_2*"))
    inodes = [path.stat().st_ino for path in finished]
    assert replace(case, words=case.words[:-1]).run() == 0
    assert "2 of 3 epochs are scored already" in capsys.readouterr().err
    assert [path.stat().st_ino for path in finished] == inodes
