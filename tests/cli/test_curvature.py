"""`mcx curvature`: the documented files, what another batch size changes, and epochs that are not scored twice."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

WORDS = ("--max-samples", "40", "--niter", "3", "--batch-size", "16")


@pytest.fixture
def scores(mcx: Callable, networks: Path, tmp_path: Path) -> Path:
    done = mcx("curvature", "--checkpoint-dir", networks / "seed0", *WORDS, "--save-dir", tmp_path / "cv")
    assert done.code == 0, done.err
    return tmp_path / "cv"


def test_the_documented_files_hold_the_mean_over_epochs(scores: Path) -> None:
    epochs = sorted(int(path.name.removeprefix("epoch_")) for path in scores.glob("epoch_*"))
    assert epochs == [0, 4]
    for name in ("per_image_curvature.npy", "per_image_directional_eig.npy"):
        each = [np.load(scores / f"epoch_{e}" / name) for e in epochs]
        np.testing.assert_allclose(np.load(scores / name), np.mean(each, axis=0), rtol=1e-6)
    ids, labels = np.load(scores / "sample_ids.npy"), np.load(scores / "per_image_labels.npy")
    with (scores / "curvature_results_digits_4.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["sample_id"]) for row in rows] == ids.tolist()
    assert [int(row["label"]) for row in rows] == labels.tolist()
    last = np.load(scores / "epoch_4/per_image_curvature.npy")
    np.testing.assert_allclose([float(row["curvature"]) for row in rows], last, rtol=1e-6)
    np.testing.assert_allclose([float(row["hvp_norm"]) for row in rows], last / 1e-3, rtol=1e-6)
    summary = json.loads((scores / "curvature_summary_digits.json").read_text())
    assert set(summary["epochs"]) == {"0", "4"}
    assert summary["epochs"]["4"]["statistics"]["curvature"]["mean"] == pytest.approx(last.mean(), rel=1e-5)


@pytest.mark.parametrize(("size", "median", "most"), [("16", 0.0, 0.0), ("7", 1e-3, 1e-2), ("1", 1e-3, 1e-2)])
def test_h2_batches_of_another_size_change_last_digits_alone(
    mcx: Callable, networks: Path, scores: Path, tmp_path: Path, size: str, median: float, most: float
) -> None:
    """And of the same size nothing at all."""
    words = ("--checkpoint-dir", networks / "seed0", *WORDS[:-1], size)
    assert mcx("curvature", *words, "--save-dir", tmp_path / "other").code == 0
    for name in ("per_image_curvature.npy", "per_image_directional_eig.npy"):
        found, expected = np.load(tmp_path / "other" / name), np.load(scores / name)
        off = np.abs(found / expected - 1)
        assert np.median(off) <= median
        assert off.max() <= most


def test_h9_finished_epochs_are_kept(mcx: Callable, networks: Path, scores: Path, tmp_path: Path) -> None:
    words = (
        "curvature",
        "--checkpoint-dir",
        networks / "seed0",
        *WORDS,
        "--save-dir",
        tmp_path / "part",
        "--json",
    )
    assert json.loads(mcx(*words, "--end-epoch", "0").out)["scored"] == 1
    assert json.loads(mcx(*words).out)["scored"] == 1
    for path in scores.glob("**/*.npy"):
        assert (tmp_path / "part" / path.relative_to(scores)).read_bytes() == path.read_bytes()


def test_the_originals_numbers_are_divided_by_the_batch(
    mcx: Callable, networks: Path, scores: Path, tmp_path: Path
) -> None:
    words = (
        "--checkpoint-dir",
        networks / "seed0",
        *WORDS,
        "--compat",
        "garg",
        "--save-dir",
        tmp_path / "garg",
    )
    assert mcx("curvature", *words).code == 0
    sizes = np.repeat([16, 16, 8], [16, 16, 8])  # the last batch is smaller
    found = np.load(tmp_path / "garg/per_image_curvature.npy")
    np.testing.assert_allclose(found * sizes, np.load(scores / "per_image_curvature.npy"), rtol=1e-5)
    true, plain = (
        np.loadtxt(folder / "curvature_results_digits_4.csv", delimiter=",", skiprows=1, usecols=(4, 5, 6))
        for folder in (tmp_path / "garg", scores)
    )
    assert np.array_equal(true, plain), "the true scale does not depend on the batch"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--h", "0"), "--h"),
        (("--h", "-1"), "--h"),
        (("--h", "nan"), "--h"),
        (("--h", "inf"), "--h"),
        (("--niter", "0"), "--niter"),
        (("--niter", "-1"), "--niter"),
        (("--temp", "0"), "--temp"),
        (("--temp", "-1"), "--temp"),
        (("--temp", "nan"), "--temp"),
        (("--checkpoint", "a.pt"), "either one checkpoint or a folder"),
    ],
)
def test_h1_settings_without_a_meaning_are_refused(
    mcx: Callable, networks: Path, tmp_path: Path, words: tuple, message: str
) -> None:
    done = mcx("curvature", "--checkpoint-dir", networks / "seed0", "--save-dir", tmp_path, *words)
    assert (done.code, done.out, message in done.err) == (2, "", True), done.err


def test_scoring_one_checkpoint_after_the_other_adds_up(
    mcx: Callable, networks: Path, scores: Path, tmp_path: Path
) -> None:
    """The document's loop: one call per epoch into one folder."""
    for epoch in (4, 0):
        checkpoint = networks / f"seed0/checkpoint-{epoch}.pt"
        assert mcx("curvature", "--checkpoint", checkpoint, *WORDS, "--save-dir", tmp_path / "loop").code == 0
    summary = json.loads((tmp_path / "loop/curvature_summary_digits.json").read_text())
    assert sorted(summary["epochs"]) == ["0", "4"]
    for path in scores.glob("**/*.npy"):
        assert (tmp_path / "loop" / path.relative_to(scores)).read_bytes() == path.read_bytes()
    other = networks / "seed1/checkpoint-4.pt"
    done = mcx("curvature", "--checkpoint", other, *WORDS, "--save-dir", tmp_path / "loop")
    assert (done.code, "is not the checkpoint that epoch 4 was scored with" in done.err) == (3, True)


def test_a_sweep_compares_scores_over_steps_and_directions(
    mcx: Callable, networks: Path, tmp_path: Path
) -> None:
    """Every row against scores made one value at a time."""
    checkpoint = (
        "--checkpoint",
        networks / "seed0/checkpoint-4.pt",
        "--max-samples",
        "40",
        "--batch-size",
        "16",
    )
    words = (
        "--sweep-h",
        "1e-2,1e-3",
        "--sweep-niter",
        "2,4",
        "--niter",
        "3",
        "--save-dir",
        tmp_path / "sweep",
    )
    done = mcx("curvature", *checkpoint, *words, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [(row["parameter"], row["value"]) for row in result["rows"]] == [
        ("h", 0.001), ("h", 0.01), ("niter", 2), ("niter", 4),
    ]  # fmt: skip
    scores = {}
    for name, how in {("h", 0.001): (), ("h", 0.01): ("--h", "1e-2"), ("niter", 2): ("--niter", "2"),
                      ("niter", 4): ("--niter", "4")}.items():  # fmt: skip
        folder = tmp_path / f"{name[0]}{name[1]}"
        assert mcx("curvature", *checkpoint, "--niter", "3", *how, "--save-dir", folder).code == 0
        with (folder / "curvature_results_digits_4.csv").open(newline="") as stream:
            scores[name] = np.array([float(row["hvp_norm"]) for row in csv.DictReader(stream)])
    for row in result["rows"]:
        own = scores[row["parameter"], row["value"]]
        reference = scores["h", 0.001] if row["parameter"] == "h" else scores["niter", 4]
        assert row["mean"] == pytest.approx(own.mean(), rel=1e-6)
        assert row["spearman"] == pytest.approx(spearmanr(own, reference).statistic, abs=1e-6)
        assert row["pearson"] == pytest.approx(np.corrcoef(own, reference)[0, 1], abs=1e-6)
        assert row["median_change"] == pytest.approx(
            np.median(abs(own - reference) / reference), rel=1e-5, abs=1e-9
        )
    assert -1 < result["rows"][0]["reliability"] < 1
    assert (tmp_path / "sweep/curvature_stability_digits_4.png").stat().st_size > 10_000
    assert not list((tmp_path / "sweep").glob("per_image*"))
    assert "already complete" in mcx("curvature", *checkpoint, *words).err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sweep-h", "0"), "--sweep-h must be greater than 0"),
        (("--sweep-niter", "0"), "--sweep-niter must be at least 1"),
        (("--sweep-h", "1e-3", "--method", "hvp"), "has no step to sweep"),
        (("--sweep-niter", "3", "--compat", "garg"), "depends on the batch"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    mcx: Callable, networks: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    where = ("--checkpoint", networks / "seed0/checkpoint-4.pt", "--save-dir", tmp_path / "out")
    done = mcx("curvature", *where, *words)
    assert (done.code, message in done.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_scores_share_a_folder_and_its_ids(
    mcx: Callable, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids are everyone's: equal ones are fine, and nobody overwrites them."""
    checkpoint = (
        "--checkpoint",
        networks / "seed0/checkpoint-4.pt",
        "--max-samples",
        "30",
        "--batch-size",
        "16",
    )
    assert mcx("csl", "score", *checkpoint, "--grad", "none", "--output-dir", tmp_path).code == 0
    ids = (tmp_path / "sample_ids.npy").read_bytes()
    (tmp_path / "epoch_9").mkdir()
    np.save(tmp_path / "epoch_9/mine.npy", np.zeros(3))
    words = ("curvature", "--niter", "1", "--save-dir", tmp_path)
    assert mcx(*words, *checkpoint).code == 0
    done = mcx(*words, *checkpoint, "--max-samples", "20", "--no-resume", "--overwrite")
    assert (done.code, "names other samples than these" in done.err) == (5, True)
    assert (tmp_path / "sample_ids.npy").read_bytes() == ids
    assert (tmp_path / "epoch_9/mine.npy").exists()


def test_a_folder_of_checkpoints_may_be_spelled_in_another_way(
    mcx: Callable, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(networks)
    words = ("curvature", "--niter", "1", "--max-samples", "5", "--save-dir", tmp_path)
    assert mcx(*words, "--checkpoint-dir", "seed0").code == 0
    done = mcx(*words, "--checkpoint-dir", networks / "seed0")
    assert (done.code, "already complete" in done.err) == (0, True)
    done = mcx(*words, "--checkpoint-dir", networks / "seed1")
    assert (done.code, "'checkpoint_dir' was seed0" in done.err) == (3, True)
