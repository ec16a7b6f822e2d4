"""`mcx train --two-phase` and what is forgotten in the second phase."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeconn_cli.cli import app
from modeconn_cli.engine.samples import scores
from modeconn_cli.engine.training.halves import Halves, said

pytestmark = pytest.mark.slow

E = 3  # epochs of a phase
WORDS = ("train", "--dataset", "digits", "--model", "mlp", "--two-phase", "--epochs", str(E), "--lr", "0.02",
         "--label-noise", "0.2", "--save-freq", "1", "--record-csl", "--seed", "5")  # fmt: skip
NAMED = "digits_run1_noise_0.2"


@pytest.fixture(scope="module")
def trained(made_once: Callable) -> Path:
    def run(*words: str | Path) -> None:
        assert app.main([str(word) for word in words]) == 0

    def make(folder: Path) -> None:
        run(*WORDS, "--output-dir", folder / "run")
        for name in ("seed5", "seed5_swapped"):
            words = ("--split", "fit", "--grad", "none", "--output-dir", folder / f"scores_{name}", "-q")
            run("csl", "score", "--checkpoint-dir", folder / "run" / name, *words)

    folder: Path = made_once("two_phase", make)
    return folder


def recorded(folder: Path, epoch: int) -> np.ndarray:
    values: np.ndarray = np.load(folder / f"recorded_losses/loss_digits_epoch_{epoch}.npy")
    return values


def correct(folder: Path) -> np.ndarray:
    """[epochs, N], the first of epoch 0."""
    files = [folder / f"dynamics_digits_run1_epoch_{e}_noise_0.2.npz" for e in range(2 * E + 1)]
    return np.stack([np.load(path)["correct"] for path in files])


def test_each_phase_goes_over_one_half_and_the_second_run_the_other_way_round(trained: Path) -> None:
    seen = {}
    for name in ("seed5", "seed5_swapped"):
        there = [np.isfinite(recorded(trained / "run" / name, epoch)) for epoch in range(1, 2 * E + 1)]
        for epoch in range(2 * E):
            assert np.array_equal(there[epoch], there[0] if epoch < E else ~there[0])
        seen[name] = there[0]
    assert np.array_equal(seen["seed5"], ~seen["seed5_swapped"])
    assert 0.45 < seen["seed5"].mean() < 0.55
    lines = (trained / "run/seed5/metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["lr"] for line in lines]
    assert rates[:E] == rates[E:], "the learning rate begins again"


def test_what_stays_wrong_in_the_second_phase_is_that_of_a_plain_loop(
    mcx: Callable, trained: Path, tmp_path: Path
) -> None:
    words = ("csl", "aggregate", "--input-dir", trained / "scores_seed5")
    swapped = ("--swapped-dir", trained / "scores_seed5_swapped")
    assert mcx(*words, *swapped, "--output-dir", tmp_path / "both", "-q").code == 0
    assert mcx(*words, "--output-dir", tmp_path / "one", "-q").code == 0
    first = np.isfinite(recorded(trained / "run/seed5", 1))
    expected = np.full(len(first), np.nan)
    for name, half in (("scores_seed5", first), ("scores_seed5_swapped", ~first)):
        right = correct(trained / name)
        for i in np.flatnonzero(half):
            if not right[E, i]:
                continue  # not learnt in the first phase
            wrong_since = [k for k in range(1, E + 1) if not right[E + k :, i].any()]
            expected[i] = wrong_since[0] if wrong_since else np.inf
    both, one = (
        pd.read_csv(tmp_path / name / f"scores_{NAMED}.csv")[scores.SECOND_SPLIT] for name in ("both", "one")
    )
    np.testing.assert_array_equal(both, expected)
    np.testing.assert_array_equal(one, np.where(first, expected, np.nan))
    assert np.isfinite(expected).sum() > 8, "some are forgotten"
    assert np.isposinf(expected).sum() > 20, "and some are not"


def test_another_run_in_the_place_of_the_swapped_one_is_refused(
    mcx: Callable, trained: Path, tmp_path: Path
) -> None:
    words = ("csl", "aggregate", "--input-dir", trained / "scores_seed5", "--output-dir", tmp_path / "x")
    done = mcx(*words, "--swapped-dir", trained / "scores_seed5")
    assert (done.code, "with the halves of" in done.err) == (3, True)
    assert not list(tmp_path.glob("x/*.csv"))


def test_a_run_of_two_phases_goes_on_after_a_kill_with_the_same_bytes(
    fresh: Callable, trained: Path, tmp_path: Path
) -> None:
    steps = -(-718 // 128)
    words = (*WORDS, "--output-dir", tmp_path / "run")
    for step in (2 * steps + 2, 3 * steps):  # in the first phase, and in the second
        environment = {"MCX_TESTING": "1", "MCX_FAILPOINT": f"train.after_step:{step}=kill"}
        assert fresh(*words, environment=environment).code == -9
    assert fresh(*words).code == 0
    for name in ("seed5", "seed5_swapped"):
        for path in sorted((trained / "run" / name).glob("checkpoint-*.pt")):
            files = path, tmp_path / "run" / name / path.name
            a, b = (torch.load(file, weights_only=True)["model_state"] for file in files)
            assert all(torch.equal(a[key], b[key]) for key in a), path.name


def test_two_phases_exclude_what_ends_or_grows_a_run(mcx: Callable, tmp_path: Path) -> None:
    for other in (("--patience", "2"), ("--classes-per-task", "5")):
        done = mcx(*WORDS, *other, "--output-dir", tmp_path / "x")
        assert (done.code, "--two-phase" in done.err) == (2, True)


def test_halves_are_by_id_and_read_back_as_they_were_said() -> None:
    halves = Halves(3, swapped=False, epochs=4)
    ids = torch.arange(1000)
    first = halves.first(ids)
    assert torch.equal(halves.first(ids[::7]), first[::7]), "whatever else is there"
    assert torch.equal(Halves(3, swapped=True, epochs=4).first(ids), ~first)
    assert [halves.at(epoch) for epoch in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 1]
    assert said(json.loads(json.dumps(halves.entry()))) == halves
    for broken in (
        None,
        {},
        {"seed": 1, "swapped": 0, "epochs": 4},
        {"seed": 1, "swapped": True, "epochs": 0},
    ):
        assert said(broken) is None


def test_the_fold_of_what_is_forgotten_for_good() -> None:
    """Columns: never again right, right in the end, never learnt, forgotten late, a NaN."""
    from modeconn_cli.engine.samples.folds import forgotten_for_good

    fold = forgotten_for_good(2)(5)
    table = [[0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, np.nan], [0, 1, 0, 0, 1]]
    for epoch, values in enumerate(table, start=1):
        fold.add(epoch, np.array(values, dtype=float), np.ones(5, dtype=bool))
    found = fold.result()
    assert found[:2].tolist() == [1.0, np.inf]
    assert np.isnan(found[[2, 4]]).all()
    assert found[3] == 3.0
