"""TAB: candidates from the tables, in a real bash, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pexpect
import pytest

from modeconn_cli.cli.complete import answer, candidates
from modeconn_cli.cli.completion import FOLDER

ROOT = Path(__file__).parents[2]


def tab(*words: str, shell: str = "bash") -> list[str]:
    line = "\n".join(("mcx", *words))
    found = answer({"_MCX_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(words))})
    return found.splitlines()


@pytest.mark.parametrize(("name", "shell"), [("mcx.bash", "bash"), ("_mcx", "zsh"), ("mcx.fish", "fish")])
def test_the_shipped_scripts_are_what_the_command_prints(mcx, name: str, shell: str) -> None:
    assert (
        mcx("completion", shell).out
        == (FOLDER / name).read_text()
        == (ROOT / "completions" / name).read_text()
    )


@pytest.mark.parametrize(
    ("shell", "line", "file"),
    [
        ("bash", "source <(mcx completion bash)", "~/.bashrc"),
        ("zsh", "source <(mcx completion zsh)", "~/.zshrc"),
        ("fish", "mcx completion fish | source", "~/.config/fish/config.fish"),
    ],
)
def test_install_prints_the_line_and_edits_nothing(
    mcx, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: str, line: str, file: str
) -> None:
    for name in ("ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    done = mcx("completion", "install")
    assert (done.code, done.out) == (0, f"{line}\n")
    assert f"add this line to {file}" in done.err
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert mcx("completion", "install", shell).out == f"{line}\n"
    refused = mcx("completion", "install")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("mcx completion: error: which shell? $SHELL is 'tcsh'\n")
    assert mcx("completion", "bash", "zsh").code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_shell_is_refused(mcx) -> None:
    done = mcx("completion", "tcsh")
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sw"], ["swap"]),
        (["curve", ""], ["train", "eval", "plane", "compare", "analyze", "extract", "convert"]),
        (["curve", "ex"], ["extract"]),
        (["l2", "--sort"], ["--sort-by"]),
        (["l2", "--sort-by", "r"], ["raw_l2", "relative_distance", "relative"]),
        (["l2", "--sort-by", "=", "raw"], ["raw_l2"]),
        (["train", "--model", "vgg16"], ["vgg16", "vgg16_bn"]),
        (["train", "--dataset", "cifar"], ["cifar10", "cifar100"]),
        (["completion", "z"], ["zsh"]),
        (["completion", "i"], ["install"]),
        (["swap", "--checkpoint", "chec"], [":files"]),
        (["swap", "chec"], [":files"]),
        (["swap", "--checkpoint=chec"], [":files"]),
        (["train", "--lr", "=", "0"], []),
        (["l2", "A.pt", ""], [":files"]),
        (["train", "--output-dir", ""], [":files"]),
        (["train", "--dataset", "folder/of"], [":files"]),
        (["train", "--config=a"], [":files"]),
        (["train", "--lr", "0"], []),
        (["train", "--lr=0"], []),
        (["train", "x"], []),
        (["swap", "--nope"], []),
        (["completion", "x"], []),
        (["curve", "x"], []),
        (["nonsense", ""], []),
        (["swap", "--layer-name", "conv"], []),
    ],
)
def test_candidates_come_from_the_tables(words: list[str], found: list[str]) -> None:
    assert tab(*words) == found


def test_help_stands_beside_candidates_where_a_shell_shows_it() -> None:
    assert tab("curve", "ex", shell="fish") == ["extract\tWrite the network at one position."]


def test_layers_are_those_of_the_checkpoint_on_the_line(networks: Path) -> None:
    checkpoint = str(networks / "seed0/checkpoint-4.pt")
    assert tab("swap", "--checkpoint", checkpoint, "--layer-name", "conv") == ["conv1", "conv2", "conv3"]
    assert tab("swap", f"--checkpoint={checkpoint}", "--layer-name", "f") == ["fc1"]


def test_a20_layers_of_a_broken_checkpoint_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 broken")
    assert tab("swap", "--checkpoint", str(tmp_path / "a.pt"), "--layer-name", "") == []


def test_configurations_are_yaml_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.yaml", "b.txt", "c.yml"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    monkeypatch.chdir(tmp_path)
    assert tab("train", "--config", "") == ["a.yaml", "c.yml", "more/"]
    assert tab("train", "--config", "mo") == ["more/"]


@pytest.mark.parametrize(
    "words",
    [
        ["swap", "--checkpoint", "a.pt", "--layer-name", ""],
        ["swap", "--checkpoint", "barred/a.pt", "--layer-name", ""],
        ["swap", "--checkpoint", "missing.pt", "--layer-name", ""],
        ["swap", "--checkpoint", ".", "--layer-name", ""],
        ["train", "--config", "barred/"],
        ["train", "--config", "missing/"],
        ["train", "--config", "a.pt/"],
        ["train", "--config", "x" * 300],
    ],
    ids=" ".join,
)
def test_a20_what_is_broken_or_barred_is_no_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """As root everything is permitted: a link that leads nowhere and to itself stands for what is not."""
    monkeypatch.chdir(tmp_path)
    Path("mcx.yaml").write_bytes(b"\xff\x00: [")
    with zipfile.ZipFile("a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(range(256)) * 8)
    data = Path("a.pt").read_bytes()
    Path("a.pt").write_bytes(data[:60] + b"\xff" * 30 + data[90:])
    Path("barred").symlink_to("barred")
    assert tab(*words) == []
    assert tab("train", "--lr", "=", "0") == []
    assert "train" in tab("")


def test_a20_a_tab_imports_neither_torch_nor_typer() -> None:
    code = (
        "import sys, modeconn_cli.__main__ as m; m.entry();"
        "bad = {'torch', 'typer', 'numpy', 'yaml', 'rich', 'matplotlib'} & set(sys.modules);"
        "sys.exit(repr(bad) if bad else 0)"
    )
    variables = {
        "_MCX_COMPLETE": "complete_bash",
        "COMP_WORDS": "mcx\ncurve\ntrain\n--lr\n",
        "COMP_CWORD": "4",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from modeconn_cli.cli.app import main;"
        "code = main(sys.argv[1:]);"
        "bad = {'torch', 'numpy', 'torchvision', 'matplotlib'} & set(sys.modules);"
        "sys.exit(repr(bad) if bad or code else 0)"
    )
    for words in (["--help"], ["curve", "train", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert "Usage: mcx" in done.stdout


def test_a_real_bash_completes(tmp_path: Path, networks: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PS1": "READY> ",
        "TERM": "dumb",
    }
    shell = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile"],
        env=environment,
        cwd=tmp_path,
        encoding="utf-8",
        timeout=20,
        dimensions=(50, 200),
    )
    shell.expect("READY> ")
    shell.sendline(f"bind 'set enable-bracketed-paste off'; source {ROOT / 'completions/mcx.bash'}")
    shell.expect("READY> ")
    shell.send("mcx curve an\t")
    shell.expect("mcx curve analyze ")
    shell.send("--swap-m\t")
    shell.expect("--swap-metadata ")
    shell.sendcontrol("u")
    shell.send(f"mcx swap --checkpoint {networks}/seed0/checkpoint-4.pt --layer-name fc\t")
    shell.expect("--layer-name fc1 ")
    shell.sendcontrol("u")
    shell.send("mcx l2 --sort-by no\t")
    shell.expect("normalized_l2 ")
    shell.sendcontrol("u")
    (tmp_path / "onlyone.pt").touch()
    shell.send("mcx l2 onl\t")
    shell.expect("onlyone.pt ")
    shell.sendcontrol("u")
    shell.send("mcx train --lr onl\tEND")  # no file is a rate
    shell.expect("--lr onl\x07?END")
    shell.close(force=True)


def test_help_completes_commands_and_topics() -> None:
    assert candidates(["help"], "ex") == {"exit-codes": ""}
    assert {"train", "models"} <= set(candidates(["help"], ""))
