"""What a person reads who asks for help: order, widths, examples that run, topics."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from modeconn_cli import __version__
from modeconn_cli.cli import pages
from modeconn_cli.cli.commands import COMMANDS, EXIT_CODES, GROUPS, TOPICS
from modeconn_cli.cli.complete import flags_of, settings_of
from modeconn_cli.engine import errors
from modeconn_cli.engine.settings.base import Panel, specs

PANELS = get_args(Panel)


def columns(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("COLUMNS", str(count))


def headings(text: str) -> list[str]:
    return [line[:-1] for line in text.splitlines() if line[:-1] in PANELS and line.endswith(":")]


def test_no_command_is_a_wish_for_help(mcx) -> None:
    for words in ([], *([group] for group in GROUPS)):
        done = mcx(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out == mcx(*words, "--help").out == mcx(*words, "-h").out
        assert done.out.startswith("Usage: mcx ")
    assert mcx("-V").out == mcx("--version").out == f"mcx {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_at_any_width(mcx, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for width in (60, 80, 110, 300):
        columns(monkeypatch, width)
        for flag in ("-h", "--help-all"):
            done = mcx(*command.split(), flag)
            assert (done.code, done.err) == (0, "")
            assert "--config" in done.out
            assert "\x1b" not in done.out
            if width >= 80:
                assert max(map(len, done.out.splitlines())) <= min(width, pages.WIDEST)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_every_flag_and_the_common_ones_first(
    mcx, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    columns(monkeypatch, 80)
    usual, everything = (mcx(*command.split(), flag).out for flag in ("--help", "--help-all"))
    assert mcx("help", *command.split()).out == everything
    for flag in flags_of(command):
        assert re.search(rf"{flag}\b", everything), flag
    for text in (usual, everything):
        assert headings(text) == [panel for panel in PANELS if panel in headings(text)]
    for spec in specs(settings_of(command)):
        assert spec.help, spec.name
        if spec.missing:
            assert re.search(rf"(?s)Required:.*({spec.flag}|{spec.name.upper()})\b.*\[required\]", usual), (
                spec.name
            )
        if not spec.rare and not spec.positional:
            assert re.search(rf"  {spec.flag}\b", usual), spec.flag
    assert usual.index("Examples") < usual.index("More: ") < usual.index(f"\n{headings(usual)[0]}:")
    if everything.count("\n  --") > usual.count("\n  --"):
        assert re.search(r"--help-all: \d+ more flags", " ".join(usual.split()))


def test_help_of_the_longest_commands_fits_where_people_read_it(mcx, monkeypatch: pytest.MonkeyPatch) -> None:
    columns(monkeypatch, 80)
    for command, most in (("swap", 50), ("train", 70)):
        assert len(mcx(command, "--help").out.splitlines()) <= most


def test_defaults_are_shown(mcx, monkeypatch: pytest.MonkeyPatch) -> None:
    columns(monkeypatch, 110)
    text = " ".join(mcx("curve", "train", "--help-all").out.split())
    for shown in (
        "[default: 0.015]",
        "[default: bezier]",
        "[default: from the checkpoint]",
        "[default: yes]",
    ):
        assert shown in text


def test_help_stands_before_everything_else_on_the_line(mcx) -> None:
    assert mcx("swap", "--nope", "--help").out == mcx("swap", "--help").out
    assert mcx("swpa", "--help").err.startswith("mcx: error: unknown command 'swpa'")
    assert "unknown" not in mcx("l2", "--", "--help").err  # a file of that name


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_are_written_out(mcx, monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    columns(monkeypatch, 80)
    done = mcx("help", topic)
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "{" not in re.sub(r"\{epoch\}", "", done.out)
    assert max(map(len, done.out.splitlines())) <= 80
    assert topic in mcx("--help").out


def test_an_unknown_topic_has_a_near_one(mcx) -> None:
    done = mcx("help", "exit-code")
    assert (done.code, done.out) == (2, "")
    assert "did you mean 'exit-codes'?" in done.err


def test_the_exit_codes_are_those_of_the_errors(mcx, monkeypatch: pytest.MonkeyPatch) -> None:
    columns(monkeypatch, 110)
    codes = {code for words in EXIT_CODES for code in words.split(", ")}
    known = {str(kind.exit_code) for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    assert known | {"0", "130", "143", "141"} == codes
    for text in (mcx("--help").out, mcx("help", "exit-codes").out):
        for words, meaning in EXIT_CODES.items():
            assert re.search(rf"{words}:? {re.escape(meaning)}", " ".join(text.split()))


@pytest.mark.slow
def test_the_examples_of_every_command_run_as_printed(
    mcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns(monkeypatch, 80)
    monkeypatch.chdir(tmp_path)
    # What an example begins from an earlier command wrote; a curve is converted when there is one.
    for command in sorted(COMMANDS, key=lambda name: name == "convert"):
        lines = pages.examples(command)
        assert lines, command
        for line in lines:
            if line == "mcx demo":  # a minute; its second example is the same in small
                continue
            done = mcx(*shlex.split(line)[1:])
            assert done.code == 0, (line, done.err)


@pytest.mark.parametrize("name", TOPICS)
def test_code_in_a_topic_is_shown_as_it_is_to_be_copied(
    mcx, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    columns(monkeypatch, 80)
    blocks = re.findall(r"^```\w*\n(.*?)^```", pages.topic(name), re.MULTILINE | re.DOTALL)
    shown = [line.strip() for line in mcx("help", name).out.splitlines()]
    for line in "".join(blocks).splitlines():
        assert len(line) <= 78, line
        assert line.strip() in shown
