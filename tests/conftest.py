"""What every test starts from: one thread, so that results are the same on every machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modeconn_cli.cli import app

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's own reaches a test."""
    for name in list(os.environ):
        if name.startswith("MCX_"):
            monkeypatch.delenv(name)


class Outcome:
    """What a command line did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def mcx(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = app.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small networks trained for four epochs on the digits: seed0/ and seed1/ with checkpoint-4.pt."""
    folder = tmp_path_factory.mktemp("networks")
    words = ["train", "--model", "cnn", "--model-arg", "width=4", "--dataset", "digits", "--seeds", "0,1"]
    code = app.main([*words, "--epochs", "4", "--lr", "0.1", "--output-dir", str(folder), "-q"])
    assert code == 0
    return folder
