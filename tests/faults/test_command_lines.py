"""Words, variables and configuration files that are wrong or meet each other: every setting of every command."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import yaml

from modeconn_cli.cli.commands import COMMANDS
from modeconn_cli.cli.complete import flags_of, settings_of
from modeconn_cli.engine.settings.base import Spec, specs

Fits = Callable[[Spec], bool]
QUICK = ("animate", "info")


def own(command: str, fits: Fits) -> list[Spec]:
    """The settings of a command that are given by a flag and fit."""
    return [spec for spec in specs(settings_of(command)) if not spec.positional and fits(spec)]


def each_command(fits: Fits = lambda _: True, quick: Collection[str] = QUICK) -> pytest.MarkDecorator:
    """Every command that has such settings."""
    found = [command for command in COMMANDS if own(command, fits)]
    marked = [each if each in quick else pytest.param(each, marks=pytest.mark.slow) for each in found]
    return pytest.mark.parametrize("command", marked)


def is_long(spec: Spec) -> bool:
    """Whether a name that lacks a letter is still near it."""
    return len(spec.name) > 4


def has_choices(spec: Spec) -> bool:
    return bool(spec.choices)


def is_one_path(spec: Spec) -> bool:
    return spec.kind is Path and not spec.many


def printed(text: str) -> dict[str, tuple[object, str]]:
    """Value and origin of each setting that `--print-config` shows."""
    lines = [line.rpartition("  # ") for line in text.splitlines() if not line.startswith("#")]
    return {name: (value, where) for line, _, where in lines for name, value in yaml.safe_load(line).items()}


def variable(command: str, spec: Spec) -> str:
    return f"MCX_{command.replace(' ', '_')}_{spec.name}".upper()


@each_command(is_long)
def test_a1_an_option_that_lacks_a_letter_is_told_from_the_right_one(mcx, command: str) -> None:
    for spec in own(command, is_long):
        wrong = spec.flag[:3] + spec.flag[4:]
        if wrong in flags_of(command):
            continue
        done = mcx(*command.split(), wrong, "1")
        assert (done.code, done.out) == (2, "")
        error, hint = done.err.splitlines()
        assert error == f"mcx {command}: error: unknown option '{wrong}'"
        assert spec.flag in hint


@each_command(has_choices)
def test_a1_a_value_that_lacks_a_letter_is_told_from_the_right_one(mcx, command: str) -> None:
    for spec in own(command, has_choices):
        for choice in spec.choices:
            wrong = choice[:1] + choice[2:] + "q"
            done = mcx(*command.split(), spec.flag, wrong)
            assert (done.code, done.out) == (2, "")
            error, *hint = done.err.splitlines()
            assert error.startswith(f"mcx {command}: error: {spec.flag}: '{wrong}' is not one of ")
            assert choice in error
            assert len(hint) <= 1


@each_command(quick=COMMANDS)
def test_a1_a_command_that_lacks_a_letter_is_told_from_the_right_one(mcx, command: str) -> None:
    *group, name = command.split()
    wrong = name[:1] + name[2:]
    done = mcx(*group, wrong)
    assert (done.code, done.out) == (2, "")
    error, hint = done.err.splitlines()
    assert error == f"{' '.join(['mcx', *group])}: error: unknown command '{wrong}'"
    assert f"'{name}'" in hint or name in hint.removeprefix("choose from: ").split(", ")


NONE = {
    "not YAML": "{key}: [1\nb: }}\n",
    "twice": "\n{key}: 1\n{key}: 1\n",
    "tag": "{key}: !!python/object/apply:os.system ['touch marker']\n",
    "tag of a name": "{key}: !!python/name:os.system\n",
    "anchor": "{key}: &a 1\n",
    "bomb": "a: &a [x]\nb: &b [*a, *a]\n{key}: *b\n",
}


@each_command()
def test_a2_no_command_takes_a_file_that_is_none_and_no_line_of_it_is_run(
    mcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    key = specs(settings_of(command))[0].name
    for kind, text in NONE.items():
        Path("c.yaml").write_text(text.format(key=key))
        done = mcx(*command.split(), "--config", "c.yaml")
        assert (done.code, done.out) == (2, ""), kind
        assert done.err.startswith(f"mcx {command}: error: config c.yaml line "), (kind, done.err)
    Path("c.yaml").write_text(NONE["twice"].format(key=key))
    assert f"config c.yaml line 3: duplicate key '{key}'" in mcx(*command.split(), "--config", "c.yaml").err
    done = mcx(*command.split(), "--config", "missing.yaml")
    assert (done.code, done.out) == (2, "")
    assert "config missing.yaml cannot be read" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@each_command(is_long)
def test_a3_an_unknown_key_is_named_with_its_line_and_the_closest(mcx, tmp_path: Path, command: str) -> None:
    path = tmp_path / "c.yaml"
    known = {key for spec in specs(settings_of(command)) for key in spec.yaml_keys}
    for spec in own(command, is_long):
        wrong = spec.name[:1] + spec.name[2:]
        if wrong in known:
            continue
        path.write_text(f"# a line before\n{wrong}: 1\n")
        done = mcx(*command.split(), "--config", path)
        assert (done.code, done.out) == (2, "")
        said = f"mcx {command}: error: config {path} line 2: unknown key '{wrong}' for '{command}' ("
        assert done.err.startswith(said)
        assert spec.name in done.err.removeprefix(said)


@each_command()
def test_a4_a_word_is_read_by_what_its_setting_is(mcx, tmp_path: Path, command: str) -> None:
    """YAML itself takes `no` for false everywhere, `010` for eight, and `1e-3` for text."""
    path = tmp_path / "c.yaml"

    def inside(spec: Spec, number: float) -> bool:
        return not spec.problem((number,) if spec.many else number)

    meant: list[tuple[Spec, str, object]] = [
        *((spec, "1e-3", 0.001) for spec in own(command, lambda s: s.kind is float and inside(s, 0.001))),
        *((spec, "010", 10) for spec in own(command, lambda s: s.kind is int and inside(s, 10))),
        *((spec, "no", False) for spec in own(command, lambda s: s.kind is bool)),
        *((spec, "no", "no") for spec in own(command, lambda s: s.kind is Path)),
        *((spec, "010", "010") for spec in own(command, lambda s: s.kind is Path)),
    ]
    for spec, word, value in meant:
        path.write_text(f"{spec.name}: {word}\n")
        done = mcx(*command.split(), "--print-config", "--config", path)
        assert done.code == 0, done.err
        expected = [value] if spec.many else value
        assert printed(done.out)[spec.name] == (expected, f"config {path}")


@each_command(is_one_path)
def test_a5_a_flag_wins_over_a_variable_and_that_over_a_file(
    mcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    path = tmp_path / "c.yaml"
    for spec in own(command, is_one_path):
        path.write_text(f"{spec.name}: of-the-file\n")
        words = [*command.split(), "--print-config", "--config", path]
        assert printed(mcx(*words).out)[spec.name] == ("of-the-file", f"config {path}")
        with monkeypatch.context() as patch:
            name = variable(command, spec)
            patch.setenv(name, "of-the-variable")
            assert printed(mcx(*words).out)[spec.name] == ("of-the-variable", f"environment {name}")
            done = mcx(*words, spec.flag, "of-the-flag")
            assert printed(done.out)[spec.name] == ("of-the-flag", "flag")
            assert (done.code, done.err) == (0, "")
