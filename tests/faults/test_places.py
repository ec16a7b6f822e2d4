"""Where results go: names that are taken, folders that cannot be written, names of every kind, for every command."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from faults.commands import CASES, Case
from modeconn_cli.cli import app

QUICK = ("curve extract", "l2", "csl score", "train")
each_command = pytest.mark.parametrize(
    "command", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)


def contents() -> dict[str, bytes]:
    """Every file of the working directory; a link by what it names."""
    return {
        str(path): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in Path().rglob("*")
        if (path.is_symlink() or path.is_file()) and path.suffix != ".pyc"
    }


def into(case: Case, folder: str) -> Case:
    """The same command with its results in a folder, or in a file of that."""
    return replace(case, into=folder if case.job else f"{folder}/{case.into}")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network may be run."""
    monkeypatch.setattr(nn.Linear, "forward", lambda *_: pytest.fail("it has begun to work"))


# A6 -------------------------------------------------------------------------------------------------------


@each_command
def test_a6_every_name_that_a_command_would_give_is_kept_where_it_is_taken(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    case, before = into(CASES[command], "results"), contents()
    assert case.run() == 0
    made = [name for name in contents().keys() - before.keys() if "/.mcx/" not in name]
    assert made
    for name in made:
        shutil.rmtree("results")
        Path(name).parent.mkdir(parents=True)
        Path(name).write_bytes(b"mine")
        capsys.readouterr()
        assert case.run() == 5, name
        said = capsys.readouterr()
        assert said.out == ""
        assert f"'{name}'" in said.err
        assert re.search("use (--overwrite to|--no-resume --overwrite|another --output-dir)", said.err)
        assert contents().items() >= {**before, name: b"mine"}.items()


@pytest.mark.parametrize("command", ["l2", "convert"])
def test_a6_a_link_is_a_name_that_is_taken_whatever_it_names(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    case = CASES[command]
    Path("target").write_bytes(b"mine")
    for target in ("target", "nowhere", case.into):
        Path(case.into).symlink_to(target)
        before = contents()
        assert case.run() == 5
        assert f"'{case.into}' exists" in capsys.readouterr().err
        assert contents() == before
        assert replace(case, words=[*case.words, "--overwrite"]).run() == 0
        assert not Path(case.into).is_symlink()
        assert Path("target").read_bytes() == b"mine"
        for path in Path().glob(f"{Path(case.into).stem}*"):
            path.unlink()


# A7 -------------------------------------------------------------------------------------------------------

BARRED = ("file/x", "loop/x", "dangling/x/y", "/proc/x", "/proc/x/y")


@each_command
def test_a7_a_place_that_cannot_be_written_is_said_before_any_work(
    here: Path, idle: None, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    Path("file").write_bytes(b"mine")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere/at all")
    places = (*BARRED, "file") if CASES[command].job else BARRED
    before = contents()
    for place in places:
        capsys.readouterr()
        assert into(CASES[command], place).run() == 5, place
        said = capsys.readouterr()
        assert said.out == ""
        assert f"error: cannot write '{place}" in said.err
        assert len([line for line in said.err.splitlines() if "error" in line]) == 1
        assert contents() == before


def without_privileges() -> None:
    """Root may write everywhere while it has the kernel's capabilities."""
    if os.geteuid() == 0:
        version = 0x20080522
        assert ctypes.CDLL(None).capset(struct.pack("Ii", version, 0), bytes(24)) == 0


@each_command
def test_a7_a_folder_that_is_not_permitted_is_said_before_any_work(
    here: Path, idle: None, forked: Callable, command: str
) -> None:
    case = into(CASES[command], "barred/x")
    Path("barred").mkdir(mode=0o555)
    flag = "--output-dir" if case.job else "--output"
    done = forked([*case.words, flag, case.into], before=without_privileges)
    assert (done.code, done.out) == (5, ""), done.err
    assert "error: cannot write 'barred/x" in done.err
    assert "Permission denied" in done.err
    assert list(Path("barred").iterdir()) == []


@each_command
def test_a7_a_folder_that_is_missing_is_made(here: Path, command: str) -> None:
    assert into(CASES[command], "a/b/c").run() == 0
    assert any(path.is_file() and ".mcx" not in path.parts for path in Path("a/b/c").rglob("*"))


# A15 ------------------------------------------------------------------------------------------------------

ODD = "sp ace é\n[red]x[/red]'\"$(id)*%s{x}~\\ " + os.fsdecode(b"\xff")
LONG = "n" * 251


@each_command
@pytest.mark.parametrize("name", [ODD, LONG], ids=["odd", "long"])
def test_a15_files_may_lie_in_folders_of_any_name(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    shutil.copytree(here, here / name, ignore=shutil.ignore_patterns(name))
    words = CASES[command].words
    begin = next(k for k in range(3) if words[k] not in ("curve", "lmc", "csl")) + 1
    moved = [str(Path(name, word)) if Path(word).exists() else word for word in words[begin:]]
    case = into(replace(CASES[command], words=[*words[:begin], *moved]), f"{name}/results")
    assert case.run() == 0, capsys.readouterr().err
    before = contents()
    capsys.readouterr()
    assert case.run() == 0
    assert "already complete" in capsys.readouterr().err or "-q" in words
    after = contents()
    assert {k: v for k, v in after.items() if ".mcx" not in k} == {
        k: v for k, v in before.items() if ".mcx" not in k
    }
    assert not Path("results").exists()


@pytest.mark.parametrize("command", CASES)
def test_a15_no_path_at_all_is_none(here: Path, idle: None, command: str) -> None:
    before = contents()
    assert replace(CASES[command], into="").run() == 2
    assert contents() == before


def test_a15_the_longest_name_of_a_file_can_be_written_and_no_longer_one(here: Path) -> None:
    """Temporary names do not grow with it."""
    words = [*CASES["l2"].words, "--output"]
    assert app.main([*words, "x" * 250 + ".json"]) == 0
    before = contents()
    assert app.main([*words, "x" * 251 + ".json"]) == 5
    assert app.main([*words, "/".join(["d" * 200] * 25) + "/x.json"]) == 5
    assert contents() == before
