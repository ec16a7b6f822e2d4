"""Readers that go away, disks that are full, terminals of every kind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

FULL = "standard output cannot be written: No space left on device"


@pytest.fixture
def full() -> Iterator[int]:
    handle = os.open("/dev/full", os.O_WRONLY)
    yield handle
    os.close(handle)


@pytest.fixture
def broken() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


# A10 ------------------------------------------------------------------------------------------------------

PRINTING = [
    ("--help",), ("--version",), ("l2", "--help"), ("l2", "--print-config"), ("l2", "a.pt", "b.pt"),
    ("l2", "a.pt", "b.pt", "--json"),
]  # fmt: skip


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a10_a_full_disk_behind_stdout_is_one_line_and_5(forked, pair, monkeypatch, full: int, words) -> None:
    monkeypatch.chdir(pair[0].parent)
    done = forked([*words, "-q"] if "a.pt" in words else words, stdout=full)
    assert done.code == 5
    (line,) = done.err.splitlines()
    assert line.endswith(f"error: {FULL}")


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a10_a_reader_that_has_gone_is_141_without_a_word(
    forked, pair, monkeypatch, broken: int, words
) -> None:
    monkeypatch.chdir(pair[0].parent)
    done = forked([*words, "-q"] if "a.pt" in words else words, stdout=broken)
    assert (done.code, done.err) == (141, "")


def test_a10_head_takes_its_line_and_the_end_is_quiet(fresh) -> None:
    shell = f"'{sys.executable}' -m modeconn_cli train --help | head -1; echo ${{PIPESTATUS[0]}}"
    code = f"import subprocess; subprocess.run(['bash', '-c', {shell!r}], check=True)"
    done = fresh("-c", code)
    first, status = done.out.splitlines()
    assert first == "Usage: mcx train [OPTIONS]"
    assert status in ("0", "141")
    assert done.err == ""


def test_a_full_disk_behind_stderr_stops_no_work(forked, pair, full: int) -> None:
    done = forked(["l2", *pair], stderr=full)
    assert done.code == 0
    assert done.out.startswith("L2 Distance Statistics:\n")


def test_an_error_keeps_its_code_without_stderr(forked, full: int) -> None:
    assert forked(["l2", "missing.pt", "b.pt"], stderr=full).code == 3


def test_notes_whose_reader_has_gone_end_the_program(forked, pair, broken: int) -> None:
    assert forked(["l2", *pair], stderr=broken).code == 141


@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream_is_never_taken_for_a_file(forked, pair, stream: int) -> None:
    """Else the next file that is opened gets its number, and what is printed goes into that file."""

    def close() -> None:
        os.close(stream)
        if stream == 1:
            sys.stdout = None  # type: ignore[assignment]
        else:
            sys.stderr = None  # type: ignore[assignment]

    output = pair[0].parent / "x.json"
    done = forked(["l2", *pair, "--output", output], before=close)
    assert done.code == 0
    assert output.read_text().startswith('{\n  "schema"')


def test_a20_completion_ends_quietly_whoever_listens(forked, full: int, broken: int) -> None:
    asked = {"_MCX_COMPLETE": "complete_bash", "COMP_WORDS": "mcx l2 --", "COMP_CWORD": "2"}
    for handle in (full, broken):
        done = forked([], asked, stdout=handle)
        assert (done.code, done.err) == (0, "")
    assert "--show-top-k\n" in forked([], asked).out


# A14 ------------------------------------------------------------------------------------------------------


def on_a_terminal(forked, words, environment, code: int = 0) -> str:
    """Everything that a terminal of 80 columns receives."""
    keeper, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    received: list[bytes] = []

    def receive() -> None:
        with contextlib.suppress(OSError):
            while part := os.read(keeper, 1 << 16):
                received.append(part)

    reader = threading.Thread(target=receive)  # a terminal that nobody reads holds a few kilobytes
    reader.start()
    try:
        done = forked(words, {"TERM": "xterm-256color", **environment}, stdout=terminal, stderr=terminal)
    finally:
        os.close(terminal)
        reader.join()
        os.close(keeper)
    assert done.code == code, b"".join(received)
    return b"".join(received).decode("utf-8")


def screen(received: str) -> list[str]:
    """The lines that stay on the terminal: escapes are left out, and so is what was wiped away."""
    lines = []
    for line in received.split("\r\n"):
        last = re.split(r"\x1b\[2K|\r", line)[-1]
        lines.append(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).rstrip())
    return [line for line in lines if line and "━━━━" not in line]


TRAIN = (
    "train",
    "--model",
    "mlp",
    "--model-arg",
    "width=4,depth=1",
    "--dataset",
    "digits",
    "--max-samples",
    "200",
)


def started(words, environment, stdout: int, stderr: int) -> SimpleNamespace:
    """A training in a process of its own: one that is forked has no gradients after some of its parent's."""
    command = [sys.executable, "-m", "modeconn_cli", *map(str, words)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=stdout, stderr=stderr, timeout=300, check=False
    )
    return SimpleNamespace(code=done.returncode)


def test_a_terminal_shows_the_losses_of_every_epoch_and_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "a-folder-with-a-long-name" / "and-another-one-below-it-that-is-longer"
    words = [*TRAIN, "--epochs", "2", "--seeds", "3,5", "--output-dir", folder]
    received = on_a_terminal(started, words, {})
    shown = screen(received)
    begun = [line for line in shown if re.match(r"epoch \d/2  seed \d lr \S+ train_loss \d\.\d+ ", line)]
    assert [line[:17] for line in begun] == [f"epoch {e}/2  seed {s}" for s in (3, 5) for e in (1, 2)]
    assert max(map(len, begun)) <= 80
    assert sum("seconds" in line for line in shown) == 4
    assert str(folder / "seed5/checkpoint-2.pt") in "\n".join(shown), "no path is cut"
    assert shown[-2:] == [
        f"wrote {folder}/seed*/{name}" for name in ("checkpoint-*.pt (4 files)", "metrics.jsonl (2 files)")
    ]
    assert received.rindex("\x1b[?25h") < received.index("mlp on digits"), "the bar has gone before the table"
    assert "…" not in received


@pytest.mark.parametrize("name", ["int", "term"])
def test_a_terminal_is_told_how_to_continue_after_ctrl_c(tmp_path: Path, name: str) -> None:
    fault = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"train.after_step:3={name}"}
    words = [*TRAIN, "--batch-size", "100", "--epochs", "9", "--output-dir", tmp_path / "run"]
    received = on_a_terminal(started, words, fault, code=75)
    last = "mcx train: stopped at epoch 1, batch 1; run the same command to continue"
    assert screen(received)[-1] == last
    assert received.rindex("\x1b[?25h") < received.index(last)
    assert not re.search("error|hint|wrote", received)


def test_the_bar_has_gone_before_an_error(tmp_path: Path) -> None:
    words = [*TRAIN, "--epochs", "3", "--lr", "1e30", "--output-dir", tmp_path / "run"]
    received = on_a_terminal(started, words, {}, code=3)
    assert received.rindex("\x1b[?25h") < received.index("mcx train: error: the training loss became NaN")


def test_a_terminal_gets_colour(forked, pair) -> None:
    assert "\x1b[1m" in on_a_terminal(forked, ["l2", *pair], {})


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_a14_a_terminal_without_colour_gets_what_a_pipe_gets(forked, pair, environment) -> None:
    received = on_a_terminal(forked, ["l2", *pair], {"COLUMNS": "20", **environment})
    assert "\x1b" not in received
    assert received.replace("\r\n", "\n").endswith(forked(["l2", *pair]).out)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
@pytest.mark.parametrize("words", [["--help"], ["l2", "--help"]], ids=" ".join)
def test_a14_help_without_colour_has_no_escapes(forked, words, environment) -> None:
    assert "\x1b" not in on_a_terminal(forked, words, {"COLUMNS": "20", **environment})


@pytest.mark.parametrize("columns", ["20", "5", "0", "x"])
def test_a14_the_table_of_a_pipe_has_one_width(forked, pair, columns: str) -> None:
    assert forked(["l2", *pair], {"COLUMNS": columns}).out == forked(["l2", *pair]).out


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "environment",
    [ASCII, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=["C", "ascii", "latin-1"],
)
def test_a14_an_encoding_that_holds_little_changes_no_code(fresh, environment) -> None:
    done = fresh("--help", environment=environment)
    assert (done.code, done.err) == (0, "")
    assert "Exit codes: 0 done" in " ".join(done.out.split())
    done = fresh("l2", "--config", "né\u2028.yaml", environment=environment)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("mcx l2: error: config n")
    done = fresh("l2", "né.pt", "b.pt", "--print-config", environment=environment)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc"])
def test_a14_no_home_is_no_trouble(fresh, home: str | None, tmp_path: Path) -> None:
    code = "import os, sys; os.environ.pop('HOME'); sys.argv = ['mcx', 'l2', 'a.pt', '--print-config']; "
    words = ("-c", code + "from modeconn_cli.__main__ import entry; entry()")
    done = fresh(*words, environment={"HOME": "x"}) if home is None else fresh(
        "l2", "a.pt", "--print-config", environment={"HOME": home}
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "\ncheckpoints: [a.pt]  # flag\n" in done.out


STRANGE = [
    {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"COLUMNS": "20"}, {"HOME": "/proc"},
    {"LC_ALL": "xx_YY"}, {"TZ": "bogus"}, {"TMPDIR": "/nonexistent"}, ASCII,
]  # fmt: skip


@pytest.mark.parametrize("environment", STRANGE, ids=str)
def test_a14_files_are_plain_and_the_same_wherever_they_were_written(forked, pair, environment) -> None:
    """Colour is for those who look."""
    output = pair[0].parent / "é.json"
    written = []
    for more in ({}, environment):
        done = forked(["l2", *pair, "--output", output, "--overwrite"], more)
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
        written.append(re.sub(r'"time": "[^"]*"', "", output.read_text("utf-8")))
    assert written[1] == written[0]
    assert "\x1b" not in written[1]


def test_the_streams_are_those_that_were_given(fresh) -> None:
    """Nothing is wrapped that Python code around the program would miss."""
    code = "import sys; from modeconn_cli.cli.app import main; before = sys.stdout; main(['--version']); "
    done = fresh("-c", code + "print(sys.stdout is before)")
    assert done.out.splitlines()[1] == "True"
