"""What every command promises: streams, exit codes, one line for an error, nothing replaced unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from modeconn_cli.cli import app
from modeconn_cli.engine.errors import did_you_mean, one_line
from modeconn_cli.engine.results import failpoints


def network(path: Path, seed: int = 0, **extra: Any) -> Path:
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(3, generator=generator) for name in ("fc.weight", "fc.bias")}
    with path.open("wb") as stream:
        torch.save({"model_state": state, **extra}, stream)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return network(tmp_path / "a.pt"), network(tmp_path / "b.pt", 1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# A1: wrong usage ------------------------------------------------------------------------------------------

WRONG: dict[tuple[str, ...], tuple[str, str]] = {
    ("swpa",): ("mcx: error: unknown command 'swpa'", "did you mean 'swap'?"),
    ("curve", "trian"): ("mcx curve: error: unknown command 'trian'", "did you mean 'train'?"),
    ("l2", "--show-topk", "3"): ("mcx l2: error: unknown option '--show-topk'", "did you mean '--show-top-k'?"),
    ("l2", "--shwo_top_k=3"): ("mcx l2: error: unknown option '--shwo-top-k'", "did you mean '--show-top-k'?"),
    ("train", "--learning-rate", "3"): (
        "mcx train: error: unknown option '--learning-rate'", "did you mean '--lr'?"
    ),
    ("curve", "train", "--endpoint", "a"): (
        "mcx curve train: error: unknown option '--endpoint'", "did you mean '--endpoint1'?"
    ),
    ("l2", "-x"): ("mcx l2: error: unknown option '-x'", ""),
    ("--nope",): ("mcx: error: unknown option '--nope'", "choose from: --help, --version"),
    ("l2", "--sort-by", "raw"): (
        "mcx l2: error: --sort-by: 'raw' is not one of normalized_l2, raw_l2, relative_distance, relative, "
        "cosine_distance, fisher_distance",
        "did you mean 'raw_l2'?",
    ),
    ("swap", "--layer-depth", "middle"): (
        "mcx swap: error: --layer-depth: 'middle' is not one of early, mid, late", "did you mean 'mid'?"
    ),
    ("l2", "--show-top-k"): ("mcx l2: error: option '--show-top-k' requires an argument", "see 'mcx l2 --help'"),
    ("l2", "--show-top-k", "2.5"): ("mcx l2: error: --show-top-k: '2.5' is not a whole number", ""),
    ("train", "--lr", "inf"): ("mcx train: error: --lr must be finite, got inf", ""),
    ("train", "--lr", "0"): ("mcx train: error: --lr must be greater than 0, got 0.0", ""),
    ("info", "a", "b"): (
        "mcx info: error: got unexpected extra argument(s) (b)",
        "one CHECKPOINT at a time; see 'mcx info --help'",
    ),
    ("swap", "a", "b"): (
        "mcx swap: error: takes 1 file without a flag, got 2: a, b",
        "--output b says where the result goes",
    ),
    ("train", "extra"): ("mcx train: error: got unexpected extra argument(s) (extra)", "see 'mcx train --help'"),
    ("curve", "train", "a", "b", "c"): ("mcx curve train: error: takes 2 files without a flag, got 3: a, b, c", ""),
    ("curve", "eval", "a", "b", "c", "--chain", "d"): (
        "mcx curve eval: error: 'a b c' stand for --chain, which is given too", "leave one of them out"
    ),
    ("swap", "a", "--checkpoint", "b"): (
        "mcx swap: error: 'a' stands for --checkpoint, which is given too", "leave one of them out"
    ),
    ("l2", "--output", ""): ("mcx l2: error: --output: is not a path", ""),
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a1_wrong_usage_is_one_line_with_the_closest_right_one(mcx, words: tuple[str, ...]) -> None:
    message, hint = WRONG[words]
    done = mcx(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err == message + "\n" + (f"hint: {hint}\n" if hint else "")


def test_initials_are_close() -> None:
    assert did_you_mean("learning_rate", ["epochs", "lr", "later"]) == "did you mean 'lr'?"
    assert did_you_mean("x", ["xyz"]) == "did you mean 'xyz'?"
    assert did_you_mean("q", ["a", "b"]) == "choose from: a, b"


def test_a_hint_names_what_else_may_have_been_meant_and_nothing_that_is_far() -> None:
    flags = ["--seed", "--branch-seed", "--k1"]
    assert did_you_mean("--seeds", flags) == "did you mean '--seed'? There is also --branch-seed"
    assert did_you_mean("dry_run", ["data_arg", *map(str, range(12))]) == ""
    assert did_you_mean("exit", ["exit-codes", "files"]) == "did you mean 'exit-codes'?"


# Streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("l2", "a.pt", "b.pt", "--nope"), 2),
        (("l2", "a.pt"), 2),
        (("l2", "a.pt", "missing.pt"), 3),
        (("l2", "a.pt", "b.pt", "--output", "a.pt/x.json"), 5),
        (("l2", "a.pt", "b.pt", "--output", "b.pt"), 5),
        (("l2", "a.pt", "b.pt", "--output", "b.pt", "--overwrite"), 5),
        (("l2", "a.pt", "b.pt", "--output", "taken"), 5),
        (("swap", "--checkpoint", "missing.pt", "--output", "x.pt"), 3),
        (("swap", "--checkpoint", "a.pt", "--output", "x.pt", "--model", "nope"), 2),
        (("swap", "--checkpoint", "a.pt", "--output", "taken", "--model", "mlp"), 5),
        (("train", "--model", "mlp", "--dataset", "digits", "--output-dir", "a.pt/x"), 5),
        (("curve", "eval", "--curve-checkpoint", "a.pt", "--output-dir", "out"), 3),
        (("animate", "--data", "a.pt", "--output", "x.gif"), 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_errors_leave_stdout_empty_and_files_alone(
    mcx,
    pair,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    as_json: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    before = contents(tmp_path)
    done = mcx(*words, *(["--json"] if as_json else []))
    assert (done.code, done.out) == (code, "")
    command = "curve eval" if words[0] == "curve" else words[0]
    (error,) = [line for line in done.err.splitlines() if "error:" in line]
    assert error.startswith(f"mcx {command}: error: ")
    assert contents(tmp_path) == before


def test_json_is_strict_and_the_only_thing_on_stdout(mcx, pair) -> None:
    done = mcx("l2", *pair, "--json", "-v")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    document = json.loads(done.out, parse_constant=refuse)
    assert document["schema"] == "mcx.l2/1"
    assert done.out.isascii()


def test_numbers_that_json_cannot_hold_are_null_and_listed(mcx, tmp_path: Path) -> None:
    paths = []
    for name, value in (("a", 1.0), ("b", float("inf"))):
        paths.append(tmp_path / f"{name}.pt")
        with paths[-1].open("wb") as stream:
            torch.save({"w": torch.tensor([value])}, stream)
    document = json.loads(mcx("l2", *paths, "--allow-nonfinite", "--json").out)
    assert document["total_l2"] is None
    assert "total_l2" in document["nonfinite"]


def test_quiet_leaves_warnings_and_verbose_adds_what_was_found(mcx, pair) -> None:
    first, second = pair
    assert mcx("l2", first, second, "-q").err == ""
    assert mcx("l2", first, first, "-q").err == "mcx l2: warning: the two checkpoints are the same file\n"
    assert f"'{first}': weights are its entry 'model_state'\n" in mcx("l2", first, second, "-v").err


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(mcx, pair, tmp_path: Path) -> None:
    before = contents(tmp_path)
    done = mcx("l2", *pair, "--output", tmp_path / "out/x.json", "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert done.err == f"measure the distance from {pair[0]} to {pair[1]} (l2)\n"
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_bug_keeps_its_traceback(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeconn_cli.engine.commands import l2

    def broken(*_: object) -> None:
        raise EOFError("not the user's doing")

    monkeypatch.setattr(l2, "run", broken)
    with pytest.raises(EOFError, match="not the user's doing"):
        app.main(["l2", *map(str, pair)])


def test_debug_shows_the_traceback_of_a_known_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from modeconn_cli.engine.errors import InputError

    monkeypatch.setenv("MCX_DEBUG", "1")
    with pytest.raises(InputError, match="does not exist"):
        app.main(["l2", "no.pt", "no.pt"])


# A15: names of files --------------------------------------------------------------------------------------

NAMES = [
    "with space.pt",
    "é – ü.pt",
    "new\nline.pt",
    "bell\x07 and \x1b[31mred.pt",
    "-dash.pt",
    "--output.pt",
    "a=b.pt",
    "[red]x.pt",
    "'quoted' \"twice\".pt",
    "#,: {}.pt",
    os.fsdecode(b"\xff\xfe.pt"),
    "n" * 252 + ".pt",
]


@pytest.mark.parametrize("name", NAMES)
def test_a15_any_name_can_be_read_and_written(mcx, pair, monkeypatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pair[0].read_bytes())
    output = tmp_path / f"out {name[:200]}.json"
    done = mcx("l2", f"--output={output}", "--", "b.pt", name)
    assert done.code == 0
    document = json.loads(output.read_text("utf-8"))
    assert document["checkpoint2"] == name
    again = mcx("l2", f"--output={output}", "--json", "--", "b.pt", name)
    assert (again.code, json.loads(again.out)["checkpoint2"]) == (0, name)


@pytest.mark.parametrize("name", NAMES)
def test_a15_an_error_about_any_name_is_one_printable_line(
    mcx, monkeypatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = mcx("l2", "--", "b.pt", name)
    assert (done.code, done.err) == (3, "mcx l2: error: 'b.pt' does not exist\n")
    done = mcx("l2", "--", name, "b.pt")
    assert (done.code, done.err) == (3, f"mcx l2: error: '{one_line(name)}' does not exist\n")
    assert done.err[:-1].isprintable()


def test_what_does_not_print_is_spelled_out() -> None:
    text = "é a\nb\x1b[31m\u2028\udcff\U000e0001"
    assert one_line(text) == "é a\\nb\\x1b[31m\\u2028\\udcff\\U000e0001"


def test_names_of_layers_bring_no_control_characters_to_the_table(mcx, tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        with (tmp_path / f"{name}.pt").open("wb") as stream:
            torch.save({"evil\x1b]0;title\x07\nlayer": torch.tensor([value])}, stream)
    done = mcx("l2", tmp_path / "a.pt", tmp_path / "b.pt")
    assert "  1. evil\\x1b]0;title\\x07\\nlayer: 1.000000 (raw: 1.00, params: 1)\n" in done.out
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("n" * 256, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("file/x", "Not a directory"),
    ],
)
def test_a15_names_that_cannot_be_are_refused_as_input_and_as_output(
    mcx, pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").write_text("mine")
    done = mcx("l2", "a.pt", name)
    assert (done.code, done.err) == (3, f"mcx l2: error: cannot read '{name}': {reason}\n")
    before = contents(tmp_path)
    done = mcx("l2", "a.pt", "b.pt", "--output", "loop/x.json" if name == "loop" else name)
    assert (done.code, done.out, contents(tmp_path)) == (5, "", before)
    assert "error: cannot write '" in done.err


# A6, A7: outputs ------------------------------------------------------------------------------------------


def test_a6_what_exists_is_kept_unless_overwrite(mcx, pair, tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    output.write_text("mine")
    done = mcx("l2", *pair, "--output", output)
    assert done.code == 5
    assert done.err.startswith(f"mcx l2: error: '{output}' exists\nhint: use --overwrite")
    assert output.read_text() == "mine"
    assert mcx("l2", *pair, "--output", output, "--overwrite").code == 0
    assert json.loads(output.read_text())["schema"] == "mcx.l2/1"


def test_a7_folders_of_an_output_are_made(mcx, pair, tmp_path: Path) -> None:
    assert mcx("l2", *pair, "--output", tmp_path / "a/b/x.json").code == 0
    assert (tmp_path / "a/b/x.json").is_file()


@pytest.mark.parametrize("place", ["file/x.json", "/proc/x.json", "/proc/x/y.json", "dangling/x.json"])
def test_a7_an_output_that_cannot_be_written_is_known_before_the_inputs_are_read(
    mcx, pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    from modeconn_cli.engine.networks import checkpoints

    monkeypatch.setattr(checkpoints, "read", lambda *_, **__: pytest.fail("read the inputs"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere/at all")
    for words in (
        ("l2", *pair, "--output", tmp_path / place),
        ("swap", "--checkpoint", pair[0], "--output", tmp_path / place),
    ):
        done = mcx(*words)
        assert (done.code, done.out) == (5, "")
        assert done.err.startswith(f"mcx {words[0]}: error: cannot write '")
    assert (tmp_path / "file").read_text() == "mine"


def test_a8_a_disk_that_is_full_is_said_and_leaves_nothing(mcx, pair, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", "files.before_sync=enospc")

    failpoints._counts.clear()
    before = contents(tmp_path)
    done = mcx("l2", *pair, "--output", tmp_path / "x.json")
    assert (done.code, done.out, contents(tmp_path)) == (5, "", before)
    assert f"error: no space left writing '{tmp_path}/x.json'" in done.err


# A16: devices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", f"CUDA is not available (torch {torch.__version__})"),
        ("cuda:7", f"CUDA is not available (torch {torch.__version__})"),
        ("mps", f"MPS is not available (torch {torch.__version__})"),
        ("gpu", "unknown device 'gpu'"),
        ("cuda:x", "unknown device 'cuda:x'"),
        ("cpu:1", "unknown device 'cpu:1'"),
    ],
)
def test_a16_a_device_that_is_not_there_is_refused(
    mcx, monkeypatch, tmp_path, device: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    words = ("--model", "mlp", "--dataset", "digits", "--output-dir", tmp_path / "out")
    done = mcx("train", *words, "--device", device)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"mcx train: error: {message}\nhint: ")
    assert not (tmp_path / "out").exists()


def test_a16_a_device_beyond_the_last_is_refused(mcx, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    done = mcx(
        "train", "--model", "mlp", "--dataset", "digits", "--device", "cuda:7", "--output-dir", tmp_path
    )
    assert (done.code, done.err) == (
        2, "mcx train: error: there is no device 'cuda:7' (found 2)\nhint: use --device cuda:0\n",
    )  # fmt: skip


def test_a16_auto_falls_to_the_cpu(mcx, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ("--model", "mlp", "--dataset", "digits", "--output-dir", tmp_path / "out", "--dry-run")
    done = mcx("train", *words, "--device", "auto")
    assert done.code == 0
    assert "steps on cpu," in done.err
