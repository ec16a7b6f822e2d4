"""No result is made of two versions of what it reads: every input of every command is exchanged between two runs.

Once after the first run was complete, once after it had ended one file before that.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from faults.commands import CASES, NET, OWN, TRAIN, A, B, Case, other_weights
from modeconn_cli.cli import app
from modeconn_cli.engine.results import failpoints, files

QUICK = ("curve eval line", "swap", "csl score")


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file that a command has written, but for what a job says of itself while it runs."""
    made = [path for path in folder.rglob("*") if path.is_file()]
    said = {"status.json", "progress.json", "run.lock"}
    return {str(path): path.read_bytes() for path in made if path.name not in said and path.suffix != ".pyc"}


def _refused(case: Case, capsys: pytest.CaptureFixture[str], code: int) -> None:
    """Every input in its turn is exchanged and put back; the command names it and changes no file."""
    for name, exchange in case.inputs.items():
        path = Path(name)
        original, times = path.read_bytes(), path.stat()
        exchange(path)
        before = _contents(Path())
        capsys.readouterr()
        assert case.run() == code, name
        assert path.stem in capsys.readouterr().err
        assert _contents(Path()) == before
        path.write_bytes(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "command", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)
def test_k1_k2_k3_nothing_is_made_of_two_versions_of_an_input(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    case = CASES[command]
    written: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(files, "published", written.append)
        assert case.run() == 0
    made = _results(here / case.into)
    assert case.run() == 0, "the same inputs"
    _refused(case, capsys, 3 if case.job else 5)
    if not case.job:
        return
    shutil.rmtree(case.into)
    last = max(k for k, path in enumerate(written) if path.name == "manifest.json")
    renamed = sum(path.suffix != ".jsonl" for path in written[: last + 1])
    with monkeypatch.context() as patch:
        patch.setenv("MCX_TESTING", "1")
        patch.setenv("MCX_FAILPOINT", f"files.before_rename:{renamed}=eio")
        failpoints._counts.clear()
        assert case.run() == 5
    _refused(case, capsys, 3)
    assert case.run() == 0
    assert _results(here / case.into) == made, "as if nothing had happened"


def _results(folder: Path) -> dict[str, bytes]:
    """The arrays and networks that a job has made, which say nothing of times."""
    made = [path for path in folder.rglob("*") if path.suffix in (".npy", ".npz", ".pt")]
    return {str(path): path.read_bytes() for path in made if ".mcx" not in path.parts}


def test_k5_k6_the_same_data_in_another_place_and_the_same_network_in_another_file_go_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["curve", "eval", A, B, *OWN, "--num-points", "3", "--output-dir", "out"]
    assert app.main(words) == 0
    shutil.copytree("runs", "elsewhere")
    (here / "data.npz").rename(here / "elsewhere/data.npz")
    (here / "mixnet.py").write_text(NET + "# a remark\n")
    capsys.readouterr()
    moved = [word.replace("runs/", "elsewhere/") for word in words]
    assert app.main([*moved, "--dataset", "elsewhere/data.npz"]) == 0
    said = capsys.readouterr().err
    assert "already complete: out" in said
    assert "the source file of mixnet:net has changed since then" in said


def test_k2_a_training_goes_on_from_its_own_states_alone(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TRAIN, "--output-dir", "out"]
    with monkeypatch.context() as patch:
        patch.setenv("MCX_TESTING", "1")
        patch.setenv("MCX_FAILPOINT", "files.before_rename:6=eio")
        failpoints._counts.clear()
        assert app.main(words) == 5
    newest = max(Path("out/seed0").glob("checkpoint-*.pt"))
    own = newest.read_bytes()
    other_weights(newest)
    capsys.readouterr()
    assert app.main(words) == 3
    assert f"'{newest}' is not the file that this job has written" in capsys.readouterr().err
    newest.write_bytes(own)
    assert app.main(words) == 0
    assert Path("out/seed0/checkpoint-2.pt").read_bytes() == (here / B.replace("seed1", "seed0")).read_bytes()


def test_k2_a_line_between_branches_is_measured_on_the_branches_that_were_trained(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*CASES["lmc run"].words, "--output-dir", "out"]
    assert app.main(words) == 0
    branch = next(Path("out/checkpoints").glob("*k1*/checkpoint-1.pt"))
    own = branch.read_bytes()
    other_weights(branch)
    finer = [word if word != "3" else "5" for word in words]
    capsys.readouterr()
    assert app.main(finer) == 3
    assert f"'{branch}' is not the file that this job has written" in capsys.readouterr().err
    branch.write_bytes(own)
    assert app.main(finer) == 0


def test_a_checkpoint_that_goes_while_others_are_scored_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["csl score"]
    last = Path("runs/seed0/checkpoint-2.pt")
    whole = last.read_bytes()

    def published(path: Path) -> None:
        if path.name.startswith("loss_") and last.exists():
            last.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(files, "published", published)
        assert case.run() == 3
    assert f"'{last}' does not exist" in capsys.readouterr().err
    last.write_bytes(whole)
    assert case.run() == 0


@pytest.mark.parametrize(
    ("command", "idle"),
    [
        ("curve eval", ["--workers", "2"]),
        ("csl score", ["--workers", "2"]),
        ("dormant", ["--workers", "2"]),
        ("csl score", ["--device", "cpu"]),
        ("lmc interpolate", ["--figure-format", "png"]),
    ],
)
def test_k7_a_setting_that_changes_no_result_goes_on(here: Path, command: str, idle: list[str]) -> None:
    case = CASES[command]
    assert case.run() == 0
    made = _contents(here / case.into)
    assert app.main([*case.words, "--output-dir", case.into, *idle]) == 0
    assert _contents(here / case.into) == made
