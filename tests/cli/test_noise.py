"""`mcx train --noise-kind` and `--noise-file`, and the commands that read the labels of such runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

TRAIN = ("train", "--model", "mlp", "--dataset", "digits", "--epochs", "1", "--threads", "1", "-q")
SHARE = 0.2


def table(path: Path) -> np.ndarray:
    """Rows of id, clean, trained, flipped."""
    return np.loadtxt(path, delimiter=",", skiprows=1, dtype=int)


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of one epoch on labels that a teacher has flipped."""
    from modeconn_cli.cli import app

    folder = tmp_path_factory.mktemp("taught")
    words = (*TRAIN, "--label-noise", str(SHARE), "--noise-kind", "instance", "--label-seed", "3")
    assert app.main([*words, "--seeds", "0,1", "--output-dir", str(folder)]) == 0
    return folder


def test_a_teacher_flips_exactly_the_share_and_all_seeds_share_its_labels(taught: Path) -> None:
    rows = table(taught / "seed0/label_noise.csv")
    assert rows[:, 3].sum() == round(SHARE * len(rows))
    assert ((rows[:, 1] != rows[:, 2]) == rows[:, 3]).all()
    assert (taught / "seed1/label_noise.csv").read_bytes() == (taught / "seed0/label_noise.csv").read_bytes()
    assert (taught / "teacher/seed3/checkpoint-5.pt").exists()
    # Doubts are no lottery: some pair of classes takes far more than its part of 90.
    counts = np.bincount(10 * rows[rows[:, 3] == 1, 1] + rows[rows[:, 3] == 1, 2])
    assert counts.max() > 3 * rows[:, 3].sum() / 90


def test_scores_read_the_teachers_labels_beside_the_checkpoints(
    mcx: Callable, taught: Path, tmp_path: Path
) -> None:
    words = ("--grad", "none", "--output-dir", tmp_path / "scores")
    done = mcx("csl", "score", taught / "seed0", *words)
    assert done.code == 0, done.err
    found = table(tmp_path / "scores/label_noise_digits_run1_noise_0.2.csv")
    np.testing.assert_array_equal(found, table(taught / "seed0/label_noise.csv"))
    shutil.copytree(
        taught / "seed0", tmp_path / "run", ignore=shutil.ignore_patterns("label_noise.csv", ".mcx")
    )
    done = mcx("csl", "score", tmp_path / "run", "--grad", "none", "--output-dir", tmp_path / "other")
    assert (done.code, "lie in label_noise.csv beside it, which is not there" in done.err) == (3, True), (
        done.err
    )
    file = ("--noise-file", taught / "seed0/label_noise.csv")
    done = mcx("csl", "score", tmp_path / "run", "--grad", "none", *file, "--output-dir", tmp_path / "other")
    assert done.code == 0, done.err
    name = "loss_digits_run1_epoch_1_noise_0.2.npy"
    assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "scores" / name).read_bytes()


def test_asymmetric_noise_is_remembered_with_its_map(mcx: Callable, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("3: 8\n1: 7\n")
    words = ("--label-noise", "0.4", "--noise-kind", "asymmetric", "--noise-map", tmp_path / "map.yaml")
    assert mcx(*TRAIN, *words, "--output-dir", tmp_path / "run").code == 0
    made = table(tmp_path / "run/seed0/label_noise.csv")
    flipped = made[made[:, 3] == 1]
    assert set(map(tuple, flipped[:, 1:3].tolist())) == {(3, 8), (1, 7)}
    (tmp_path / "map.yaml").unlink()
    done = mcx("csl", "score", tmp_path / "run/seed0", "--grad", "none", "--output-dir", tmp_path / "scores")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(table(tmp_path / "scores/label_noise_digits_run1_noise_0.4.csv"), made)
    done = mcx(*TRAIN, "--label-noise", "0.4", "--noise-kind", "uniform", "--output-dir", tmp_path / "run")
    assert (done.code, "'noise_kind' was asymmetric, now uniform" in done.err) == (3, True), done.err


def test_labels_of_a_file_are_trained_on_and_found_again(mcx: Callable, tmp_path: Path) -> None:
    data = ("--dataset", "synthetic", "--data-arg", "train=200,test=40")
    assert mcx(*TRAIN, *data, "--label-noise", "0.3", "--output-dir", tmp_path / "first").code == 0
    rows = table(tmp_path / "first/seed0/label_noise.csv")
    np.savez(tmp_path / "human.npz", clean_label=rows[:, 1], worse_label=rows[:, 2], aggre_label=rows[:, 1])
    file = ("--noise-file", f"{tmp_path / 'human.npz'}::worse_label")
    assert mcx(*TRAIN, *data, *file, "--output-dir", tmp_path / "run").code == 0
    np.testing.assert_array_equal(table(tmp_path / "run/seed0/label_noise.csv"), rows)
    wrong = ("--noise-file", f"{tmp_path / 'human.npz'}::worse_label", "--output-dir", tmp_path / "digits")
    done = mcx(*TRAIN, *wrong)
    assert (done.code, "200 labels, the training file 1,437 images" in done.err) == (3, True), done.err
    (tmp_path / "human.npz").unlink()
    done = mcx("dormant", tmp_path / "run/seed0", "--output-dir", tmp_path / "dormant")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(np.load(tmp_path / "dormant/labels_epoch_1.npy"), rows[:, 2])
    assert (
        mcx("dormant", tmp_path / "run/seed0", "--labels", "clean", "--output-dir", tmp_path / "clean").code
        == 0
    )
    np.testing.assert_array_equal(np.load(tmp_path / "clean/labels_epoch_1.npy"), rows[:, 1])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--noise-kind", "asymmetric"), 2, "--noise-kind has no effect without --label-noise"),
        (("--label-noise", "0.1", "--noise-map", "1:2"), 2, "--noise-map has no effect with --noise-kind"),
        (
            ("--label-noise", "0.1", "--noise-kind", "asymmetric", "--noise-map", "1:77"),
            2,
            "the classes are 0 to 9",
        ),
        (
            ("--label-noise", "0.1", "--noise-file", "own.npy"),
            2,
            "--label-noise has no effect with --noise-file",
        ),
        (("--noise-file", "absent.npz"), 3, "absent.npz"),
        (("--noise-file", "own.npy"), 3, "3 labels, the training file 1,437"),
    ],
)
def test_bad_noise_is_one_line_and_nothing_is_written(
    mcx: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("own.npy", np.array([1, 2, 3]))
    done = mcx(*TRAIN, *words, "--output-dir", "out")
    assert (done.code, done.out, message in done.err) == (code, "", True), done.err
    assert not Path("out").exists()


def test_other_commands_that_train_have_no_teacher(mcx: Callable, tmp_path: Path) -> None:
    words = (
        "lmc",
        "run",
        "--model",
        "mlp",
        "--dataset",
        "digits",
        "--k1",
        "0",
        "--k2",
        "1",
        "--label-noise",
        "0.1",
    )
    done = mcx(*words, "--noise-kind", "instance", "--output-dir", tmp_path / "out")
    assert (done.code, "needs a teacher, which mcx train trains" in done.err) == (2, True), done.err
