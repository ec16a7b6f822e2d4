"""Ctrl-C and SIGTERM: at any moment an exit code, no traceback, and every file as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeconn_cli.engine.machine import runtime
from modeconn_cli.engine.networks import checkpoints, sums
from modeconn_cli.engine.results import files, fingerprints

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SIGNALS = pytest.mark.parametrize("number", CODES, ids=["INT", "TERM"])

# Sends a signal to itself when a module is looked for, and goes on importing.
IMPORTING = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
from modeconn_cli.__main__ import entry
sys.argv = ["mcx", "swap", "--checkpoint", "a.pt", "--output", "b.pt"]
entry()
"""


def kill(number: int) -> Callable[..., Any]:
    return lambda *_, **__: os.kill(os.getpid(), number)


def after(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, after a signal has come."""

    def call(*words: Any, **more: Any) -> Any:
        os.kill(os.getpid(), number)
        return function(*words, **more)

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("module", ["typer", "modeconn_cli.cli.swap", "torch", "torch.types", "numpy.linalg"])
def test_a11_ctrl_c_during_an_import_ends_at_once(fresh, tmp_path: Path, module: str) -> None:
    """NumPy is imported by torch's own C++, which swallows exceptions: the program ran on, half imported."""
    (tmp_path / "a.pt").touch()  # what is not there is said before
    done = fresh("-c", IMPORTING.format(module=module, number=int(signal.SIGINT)), cwd=tmp_path)
    assert (done.code, done.out, done.err) == (130, "", "")


@pytest.mark.parametrize("module", ["typer", "torch.types"])
def test_sigterm_during_an_import_ends_at_once(fresh, tmp_path: Path, module: str) -> None:
    (tmp_path / "a.pt").touch()
    done = fresh("-c", IMPORTING.format(module=module, number=int(signal.SIGTERM)), cwd=tmp_path)
    assert (done.code, done.out, done.err) == (143, "", "")


GIVEN_UP = """
import os, sys
from modeconn_cli.__main__ import entry
from modeconn_cli import __main__ as program
class Loader:
    def __del__(self):
        os.kill(os.getpid(), {number})
def run():
    Loader()
    print("ran on")
program._run = run
entry()
"""


@SIGNALS
def test_a_signal_while_an_object_is_given_up_ends_at_once(fresh, number: int) -> None:
    """Python swallows the exceptions of `__del__`: the signal was lost."""
    done = fresh("-c", GIVEN_UP.format(number=int(number)))
    assert (done.code, done.out, done.err) == (CODES[number], "", "")


def test_a11_ctrl_c_before_anything_is_imported_is_quiet(fresh) -> None:
    code = "from modeconn_cli import __main__ as m; import os; m._open_streams = lambda: os.kill(os.getpid(), 2); "
    done = fresh("-c", code + "m.entry()")
    assert (done.code, done.out, done.err) == (130, "", "")


@SIGNALS
@pytest.mark.parametrize(
    ("module", "name"),
    [(checkpoints, "read"), (fingerprints, "sha256"), (sums, "among"), (files, "atomic_write")],
)
def test_a11_a_signal_while_it_reads_computes_or_writes_keeps_every_file(
    forked, pair, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: int
) -> None:
    output = pair[0].parent / "x.json"
    output.write_text("mine")
    before = contents(pair[0].parent)
    monkeypatch.setattr(module, name, after(number, getattr(module, name)))
    done = forked(["l2", *pair, "--output", output, "--overwrite"])
    assert (done.code, done.out) == (CODES[number], "")
    assert "Traceback" not in done.err
    assert contents(pair[0].parent) == before


@SIGNALS
def test_a11_a_signal_in_the_middle_of_a_file_leaves_no_part_of_it(
    forked, pair, monkeypatch, number: int
) -> None:
    output = pair[0].parent / "x.json"
    before = contents(pair[0].parent)
    monkeypatch.setattr(os, "fsync", after(number, os.fsync))
    done = forked(["l2", *pair, "--output", output])
    assert (done.code, contents(pair[0].parent)) == (CODES[number], before)


@SIGNALS
def test_a_second_signal_ends_at_once(forked, pair, monkeypatch, number: int) -> None:
    def twice(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(sums, "among", twice)
    assert forked(["l2", *pair]).code == -number


def test_ctrl_c_that_the_shell_has_switched_off_stays_off(forked, pair, monkeypatch) -> None:
    monkeypatch.setattr(sums, "among", after(signal.SIGINT, sums.among))
    done = forked(["l2", *pair], before=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (done.code, done.out.splitlines()[0]) == (0, "L2 Distance Statistics:")


@SIGNALS
def test_e5_a_signal_before_there_is_anything_to_save_leaves_nothing(
    forked, tmp_path: Path, monkeypatch, number: int
) -> None:
    """A job that can save itself takes over the signals before it opens its folder."""
    monkeypatch.setattr(runtime.Runtime, "catching_signals", kill(number))
    words = [
        "train",
        "--model",
        "mlp",
        "--model-arg",
        "width=4,depth=1",
        "--dataset",
        "digits",
        "--epochs",
        "1",
    ]
    done = forked([*words, "--output-dir", tmp_path / "run", "-q"])
    said = "mcx train: stopped; run the same command again\n"
    assert (done.code, done.out, done.err) == (CODES[number], "", said)
    assert not (tmp_path / "run/seed0/.mcx/train").exists()
