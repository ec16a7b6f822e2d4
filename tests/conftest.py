"""What every test starts from: one thread, so that results are the same on every machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from faults.rows import NAMED
from filelock import FileLock

from modeconn_cli.cli import app

FEW = 3  # cases of a test of faults in the default tier

torch.set_num_threads(1)
hypothesis.settings.register_profile("mcx", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("mcx")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are named after a row of the fault matrix are found by `-m fault`. Of each function the first cases
    belong to the default tier, the first slow one to the second, and the rest to `make faults` alone.
    """
    begun = Counter[tuple[str, bool]]()
    for item in items:
        if NAMED.match(item.name):
            item.add_marker("fault")
            slow = item.get_closest_marker("slow") is not None
            kind = item.nodeid.partition("[")[0], slow
            begun[kind] += 1
            if begun[kind] > (1 if slow else FEW):
                item.add_marker("slow")
                item.add_marker("rest")


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


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a small run."""
    from modeconn_cli.engine.commands.correlate import figures as correlate_figures
    from modeconn_cli.engine.commands.csl import figures as csl_figures
    from modeconn_cli.engine.samples import pictures

    drawn = {
        correlate_figures: ("scatter", "groups", "evolution"),
        csl_figures: ("histograms", "curves"),
        pictures: ("gallery",),
    }
    for module, names in drawn.items():
        for name in names:
            monkeypatch.setattr(module, name, lambda *_: b"figure")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder, or find the one that another process of the same test run has made.

    Its tests read what is there and write elsewhere.
    """
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    shared = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent

    def make(name: str, into: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                into(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def networks(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Two small networks trained for four epochs on the digits: seed0/ and seed1/ with checkpoint-4.pt."""

    def train(folder: Path) -> None:
        words = ["train", "--model", "cnn", "--model-arg", "width=4", "--dataset", "digits", "--seeds", "0,1"]
        assert app.main([*words, "--epochs", "4", "--lr", "0.1", "--output-dir", str(folder), "-q"]) == 0

    return made_once("networks", train)
