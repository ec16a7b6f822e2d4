"""kill -9 at every step of writing: the old file or none, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KILLED = -signal.SIGKILL
# A place for each step of one file; `after_rename` has published it.
PLACES = ("before_write", "before_sync", "before_rename", "after_rename")


def at(place: str, turn: int = 1) -> dict[str, str]:
    return {"MCX_TESTING": "1", "MCX_FAILPOINT": f"files.{place}:{turn}=kill"}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def temporary(folder: Path) -> list[Path]:
    return list(folder.rglob(".mcx-*.tmp"))


@pytest.fixture
def here(tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "a.pt").write_bytes((networks / "seed0/checkpoint-4.pt").read_bytes())
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_a9_a_kill_leaves_the_old_file_or_the_new_one(forked, pair, tmp_path: Path, place: str) -> None:
    output = tmp_path / "x.json"
    output.write_text("old")
    words = ["l2", *pair, "--output", output, "--overwrite"]
    assert forked(words, at(place)).code == KILLED
    if place == "after_rename":
        assert json.loads(output.read_text())["schema"] == "mcx.l2/1"
    else:
        assert (output.read_text(), len(temporary(tmp_path))) == ("old", 1)
    assert forked(words).code == 0
    assert json.loads(output.read_text())["schema"] == "mcx.l2/1"
    assert temporary(tmp_path) == []


SWAP = ("swap", "--checkpoint", "a.pt", "--output", "out/o.pt", "--seed", "3")
FILES = ["o.pt", "o_layer_distances.json", "o_metadata.json"]


@pytest.fixture
def swapped(mcx, here: Path) -> dict[str, bytes]:
    """The files of a swap that nothing disturbed; made here, so that forks need not import what it takes."""
    assert mcx(*SWAP).code == 0
    whole = {name: (here / "out" / name).read_bytes() for name in FILES}
    for name in FILES:
        (here / "out" / name).unlink()
    return whole


def without_time(metadata: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(metadata)
    del document["provenance"]["time"]
    return document


def test_c6_a_swap_killed_at_any_step_is_repaired_by_the_same_command(forked, here: Path, swapped) -> None:
    for turn in (1, 2, 3):
        for place in ("before_rename", "after_rename"):
            assert forked(SWAP, at(place, turn)).code == KILLED
            committed = (here / "out/o.pt").exists()
            assert committed == ((place, turn) == ("after_rename", 3))
            done = forked(SWAP)
            assert (done.code, f"{place}:{turn}") == (0, f"{place}:{turn}")
            assert ("already complete" in done.err) == committed
            assert names_in(here / "out") == FILES, "temporary files of dead processes are removed"
            for name in FILES[:2]:
                assert (here / "out" / name).read_bytes() == swapped[name]
            assert without_time((here / "out/o_metadata.json").read_bytes()) == without_time(
                swapped["o_metadata.json"]
            )
            for name in FILES:
                (here / "out" / name).unlink()


def test_a_checkpoint_is_never_taken_for_that_of_newer_metadata(forked, here: Path) -> None:
    """Killed between the two with --overwrite: old checkpoint, new metadata."""
    assert forked(SWAP).code == 0
    old = (here / "out/o.pt").read_bytes()
    other = [*SWAP[:-1], "4"]
    assert forked([*other, "--overwrite"], at("before_rename", 3)).code == KILLED
    assert (here / "out/o.pt").read_bytes() == old
    assert json.loads((here / "out/o_metadata.json").read_text())["seed"] == 4
    for words in (SWAP, other):
        done = forked(words)
        assert (done.code, (here / "out/o.pt").read_bytes()) == (5, old)
    assert forked([*other, "--overwrite"]).code == 0
    assert (here / "out/o.pt").read_bytes() != old
    assert names_in(here / "out") == FILES


LINE = ("curve", "eval", "--endpoint0", "a.pt", "--endpoint1", "b.pt", "--num-points", "3", "-q")


@pytest.fixture
def evaluated(mcx, here: Path, networks: Path) -> dict[str, bytes]:
    """The files of a job that nothing disturbed."""
    (here / "b.pt").write_bytes((networks / "seed1/checkpoint-4.pt").read_bytes())
    assert mcx(*LINE, "--output-dir", "whole").code == 0
    return {path.name: path.read_bytes() for path in (here / "whole").iterdir() if path.is_file()}


def test_a9_f2_a_job_killed_before_any_of_its_files_goes_on_to_the_same_end(
    forked, here: Path, evaluated
) -> None:
    turn, codes = 1, []
    while not codes or codes[-1] == KILLED:
        folder = here / f"run{turn}"
        words = [*LINE, "--output-dir", folder.name]
        codes.append(forked(words, at("before_rename", turn)).code)
        done = forked(words)
        assert done.code == 0, f"after a kill before file {turn}: {done.err}"
        assert names_in(folder / ".mcx/curve-eval") == names_in(here / "whole/.mcx/curve-eval")
        assert temporary(folder) == []
        assert {path.name for path in folder.iterdir() if path.is_file()} == set(evaluated)
        assert (folder / "curve.npz").read_bytes() == evaluated["curve.npz"]
        turn += 1
    assert codes[-1] == 0
    assert len(codes) > len(evaluated) + 4, "its files, settings, record, status and manifest"


def test_a12_a13_a_lock_is_taken_over_only_from_the_dead(forked, here: Path, evaluated) -> None:
    words = [*LINE[:-1], "--output-dir", "run"]
    assert forked(words, at("before_rename", 2)).code == KILLED
    lock = here / "run/.mcx/curve-eval/run.lock"
    owner = json.loads(lock.read_text())
    done = forked(words)
    assert done.code == 0
    assert f"taking over the lock of pid {owner['pid']}, which has ended\n" in done.err
    del owner["begun"]  # of the process that was killed
    lock.write_text(json.dumps({**owner, "pid": os.getppid()}))
    done = forked(words)
    assert (done.code, done.out) == (5, "")
    assert f"is locked by pid {os.getppid()} on {owner['host']} (started {owner['started']})" in done.err


BRANCHES = (
    "lmc", "run", "--model", "mlp", "--model-arg", "width=4,depth=1", "--dataset", "digits", "--max-samples", "60",
    "--lr", "0.1", "--k1", "0,1", "--k2", "1", "--num-alphas", "3", "-q",
)  # fmt: skip


def test_f7_an_experiment_killed_again_and_again_ends_with_the_same_files(fresh, mcx, here: Path) -> None:
    """Each run publishes a few files of the experiment and is killed before the next. New processes: they train."""
    assert mcx(*BRANCHES, "--output-dir", "whole").code == 0
    kinds = ("checkpoints/*/*.pt", "processed/*.json", "dataframes/*.csv", "figures/*.png")

    def made(folder: str) -> dict[str, bytes]:
        root = here / folder
        return {str(p.relative_to(root)): p.read_bytes() for kind in kinds for p in root.glob(kind)}

    words, seen = [*BRANCHES, "--output-dir", "run"], [0]
    for turn in (7, 6, 7, 5):
        assert fresh(*words, environment=at("before_rename", turn)).code == KILLED
        seen.append(len(made("run")))
    assert seen == sorted(set(seen)), "every run got further"
    assert 7 <= seen[-1] < len(made("whole")), "and none to the end"
    done = fresh(*words)
    assert done.code == 0, done.err
    assert made("run") == made("whole")


def test_a_kill_in_the_middle_of_an_epoch_loses_a_part_at_most(
    fresh, mcx, networks: Path, tmp_path: Path
) -> None:
    """The digits are two work units: a kill after one is followed by the other alone, with the same bytes."""
    folder = tmp_path / "out"
    where = ("--checkpoint", networks / "seed0/checkpoint-4.pt", "--batch-size", "64", "--threads", "1", "-q")
    assert mcx("dormant", "--output-dir", tmp_path / "whole", *where).code == 0
    environment = {"MCX_TESTING": "1", "MCX_FAILPOINT": "scoring.after_part:1=kill"}
    assert fresh("dormant", "--output-dir", folder, *where, environment=environment).code == KILLED
    assert len(list(folder.glob(".mcx/*/parts/*/*.npz"))) == 1
    assert mcx("dormant", "--output-dir", folder, *where).code == 0
    assert list(folder.glob(".mcx/*/parts/*/*.npz")) == []
    made = [path for path in (tmp_path / "whole").rglob("*") if path.suffix in (".npy", ".csv")]
    assert made
    for path in made:
        assert (folder / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_teacher_of_labels_and_its_pupil_go_on_after_kills(fresh, tmp_path: Path) -> None:
    """At a step of the teacher, then at one of the network: the labels and weights are those of an unbroken run."""
    words = ("train", "--model", "mlp", "--dataset", "digits", "--epochs", "3", "--threads", "1", "-q")
    words += ("--label-noise", "0.2", "--noise-kind", "instance", "--output-dir")
    assert fresh(*words, tmp_path / "whole").code == 0
    for step in (20, 70):
        environment = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"train.after_step:{step}=kill"}
        assert fresh(*words, tmp_path / "run", environment=environment).code == KILLED
        assert (tmp_path / "run/seed0").exists() == (step == 70)
    assert fresh(*words, tmp_path / "run").code == 0
    for name in ("seed0/label_noise.csv", "seed0/checkpoint-3.pt", "teacher/seed0/checkpoint-5.pt"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_f2_a_plane_killed_at_any_cell_goes_on_to_the_same_bytes(
    forked, mcx, here: Path, networks: Path
) -> None:
    (here / "b.pt").write_bytes((networks / "seed1/checkpoint-4.pt").read_bytes())
    (here / "c.pt").write_bytes((networks / "seed0/checkpoint-0.pt").read_bytes())
    plane = ("curve", "plane", "a.pt", "b.pt", "c.pt", "--grid-points", "2", "--max-samples", "100", "-q")
    assert mcx(*plane, "--output-dir", "whole").code == 0
    words = (*plane, "--output-dir", "killed", "--threads", "1")
    for turn in (2, 4):  # of 7 places, the second run begins at the third
        where = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"evaluate.after_position.rank0:{turn}=kill"}
        assert forked(words, where).code == KILLED
    assert len((here / "killed/.mcx/curve-plane/positions-0.jsonl").read_text().splitlines()) == 4
    assert forked(words).code == 0
    for name in ("plane.npz", "plane.png"):
        assert (here / "killed" / name).read_bytes() == (here / "whole" / name).read_bytes()
