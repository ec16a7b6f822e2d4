"""Scores of training dynamics: each in closed form, and all of them against a plain loop in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from modeconn_cli.engine.samples import scores, vog
from modeconn_cli.engine.samples.folds import windows
from modeconn_cli.engine.samples.per_sample import PerSample
from modeconn_cli.engine.statistics import average_precision

L3, INF, NAN = math.log(3.0), math.inf, math.nan
TABLE = {score.name: score for score in scores.scores(el2n_epoch=2)}


def over(name: str, *epochs: list[float], seen: list[list[bool]] | None = None) -> list[float]:
    """The score of columns that hold these values [N] at epochs 1, 2, …; of two columns the second is 0, a learning
    rate is ½.
    """
    score = TABLE[name]
    assert score.fold is not None
    fold = score.fold(len(epochs[0]))
    for k, values in enumerate(epochs):
        columns = {each: np.zeros(len(values), dtype=np.float32) for each in score.needs}
        columns |= {"lr": np.asarray(0.5), score.needs[0]: np.array(values, dtype=np.float32)}
        mask = np.ones(len(values), dtype=bool) if seen is None else np.array(seen[k])
        score.step(fold, k + 1, columns, mask)
    found: list[float] = fold.result().tolist()
    return found


def test_columns_in_closed_form() -> None:
    """Logits (0, ln 3) have the probabilities ¼ and ¾."""
    logits = torch.tensor([[0.0, L3], [0.0, L3]], dtype=torch.float64)
    found = {name: values.tolist() for name, values in scores.of_logits(logits, torch.tensor([1, 0])).items()}
    assert found["label_logit"] == [L3, 0.0]
    assert found["other_logit"] == [0.0, L3]
    assert found["label_prob"] == pytest.approx([0.75, 0.25], rel=1e-15)
    assert found["correct"] == [1.0, 0.0]
    assert found["entropy"] == pytest.approx([0.75 * math.log(4 / 3) + 0.25 * math.log(4)] * 2, rel=1e-14)
    assert found["el2n"] == pytest.approx([0.25 * math.sqrt(2), 0.75 * math.sqrt(2)], rel=1e-14)


def test_columns_are_over_the_classes_seen_and_ties_go_to_the_first_class_as_in_accuracies() -> None:
    logits = torch.tensor([[9.0, 2.0, 1.0], [5.0, 4.0, 4.0]])
    found = scores.of_logits(logits, torch.tensor([1, 2]), torch.tensor([1, 2]))
    assert found["label_logit"].tolist() == [2.0, 4.0]
    assert found["other_logit"].tolist() == [1.0, 4.0]
    assert found["correct"].tolist() == [1.0, 0.0]


def test_a_sample_that_is_fitted_to_the_end_keeps_its_digits() -> None:
    found = scores.of_logits(torch.tensor([[80.0, 0.0]]), torch.tensor([0]))
    assert found["el2n"].tolist() == pytest.approx([math.sqrt(2) * math.exp(-80)], rel=1e-12)
    assert found["entropy"].tolist() == pytest.approx([81 * math.exp(-80)], rel=1e-12)


def test_logits_that_are_no_numbers_stay_none_in_every_column() -> None:
    logits = torch.tensor([[NAN, NAN], [0.0, 1.0]])
    for values in scores.of_logits(logits, torch.tensor([0, 1])).values():
        assert values.isnan().tolist() == [True, False]


@pytest.mark.parametrize("column", scores.COLUMNS, ids=lambda column: column.name)
def test_a_column_of_the_table_is_that_of_the_sample_alone(column: scores.Column) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 5
    found = scores.of_logits(logits, labels)[column.name]
    assert found.shape == (40,), "a column is one value per sample"
    assert bool(found.isfinite().all()), "finite logits have finite values"
    alone = [float(scores.of_logits(logits[k : k + 1], labels[k : k + 1])[column.name]) for k in range(40)]
    assert found.tolist() == pytest.approx(alone, rel=1e-12), "the rest of the batch does not matter"
    assert column.within[0] <= min(alone) <= max(alone) <= column.within[1]
    sure = torch.full((1, 5), -9.0, dtype=torch.float64).index_fill(1, torch.tensor([2]), 9.0)
    easy, hard = (float(scores.of_logits(sure, torch.tensor([label]))[column.name]) for label in (2, 0))
    sign = {"hard": 1, "easy": -1, "either": 0}[column.large]
    assert np.sign(hard - easy) == sign, f"of a sample that is wrong for sure; large is '{column.large}'"


def test_margins_in_closed_form() -> None:
    epochs = ([3.0, -1.0], [-2.0, -5.0], [5.0, 0.0])
    assert over("aum", *epochs) == [2.0, -2.0]
    assert over("margin_last", *epochs) == [5.0, 0.0]
    assert over("margin_min", *epochs) == [-2.0, -5.0]
    both = {"label_logit": np.array([1.0, 4.0]), "other_logit": np.array([4.0, 1.5])}
    assert scores.margin(both).tolist() == [-3.0, 2.5]


def test_margins_of_infinite_logits_are_infinite_or_none() -> None:
    columns = {"label_logit": np.array([np.inf, 0, np.inf]), "other_logit": np.array([0, np.inf, np.inf])}
    np.testing.assert_array_equal(scores.margin(columns), [np.inf, -np.inf, np.nan])


def test_data_maps_in_closed_form() -> None:
    """0.25 and 0.75 have a deviation of 0.25 (ddof 0), not 0.354."""
    assert over("confidence", [0.25, 1.0], [0.75, 1.0]) == [0.5, 1.0]
    assert over("variability", [0.25, 1.0], [0.75, 1.0]) == [0.25, 0.0]
    assert over("correctness", [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]) == [0.75, 0.0]
    assert over("share_wrong", [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]) == [0.25, 1.0]


def test_el2n_is_of_one_epoch_its_mean_and_that_of_its_squares_are_others() -> None:
    epochs = ([0.5, 1.0], [0.25, 1.25], [0.75, 0.5])
    assert over("el2n", *epochs) == [0.25, 1.25]
    assert over("el2n_mean", *epochs) == pytest.approx([0.5, 2.75 / 3])
    assert over("el2n_squared_mean", *epochs) == pytest.approx([0.875 / 3, 2.8125 / 3])


def test_norms_of_gradients_in_closed_form() -> None:
    epochs = ([3.0, 0.0], [1.0, 2.0], [2.0, 4.0])
    for name in ("grand", "grand_input"):
        assert over(name, *epochs) == [1.0, 2.0]
        assert over(f"{name}_mean", *epochs) == [2.0, 2.0]
    assert over("tracin_self", *epochs) == [7.0, 10.0], "half of the sums of the squares"


def test_the_gradient_norm_of_softmax_regression_is_that_of_its_error_and_its_input() -> None:
    """∇ℓ = (p − onehot(y)) (x, 1)ᵀ, whose norm is the product of the two."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 1, 2, 4, generator=generator, dtype=torch.float64)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 5)).double()
    labels, notes = torch.arange(30) % 5, list[str]()
    found = PerSample(model, (1, 2, 4), "param", inner=False, note=notes.append).score(x, labels)
    assert found.squares is not None
    el2n = scores.of_logits(found.logits, labels)["el2n"]
    exact = el2n * (x.flatten(1).square().sum(1) + 1).sqrt()
    assert found.squares.sqrt().tolist() == pytest.approx(exact.tolist(), rel=1e-12)
    assert notes == []


def test_forgetting_counts_changes_from_correct_to_wrong_and_never_learnt_is_infinite() -> None:
    """Columns: always, never, twice forgotten, learnt late, forgotten at the end."""
    epochs = [
        [1.0, 0.0, 1.0, 0.0, 1.0],
        [1.0, 0.0, 0.0, 0.0, 1.0],
        [1.0, 0.0, 1.0, 0.0, 1.0],
        [1.0, 0.0, 0.0, 1.0, 0.0],
    ]
    assert over("forgetting", *epochs) == [0.0, INF, 2.0, 0.0, 1.0]
    assert over("first_learnt", *epochs) == [1.0, INF, 1.0, 4.0, 1.0]


def test_entropies_in_closed_form() -> None:
    assert over("entropy", [0.5, 2.0], [0.25, 1.0]) == [0.25, 1.0]
    assert over("entropy_mean", [0.5, 2.0], [0.25, 1.0]) == [0.375, 1.5]


def test_dynamic_uncertainty_is_the_mean_over_windows_of_their_deviation() -> None:
    """Windows of two of 0, 1, 1, 0: deviations ½, 0, ½."""
    fold = windows(2)(1)
    for epoch, value in enumerate((0.0, 1.0, 1.0, 0.0)):
        fold.add(epoch, np.array([value]), np.array([True]))
    assert fold.result().tolist() == pytest.approx([1 / 3], rel=1e-15)
    step = [[0.0]] * 10 + [[1.0]]  # ten epochs a window: 0, and the deviation of nine 0 and a 1
    assert over("dynamic_uncertainty", *step) == pytest.approx([0.3 / 2], rel=1e-12)
    assert math.isnan(over("dynamic_uncertainty", *step[:9])[0]), "no window"


# That of two phases has tests of its own, tests/faults/test_two_phase.py.
FOLDED = [name for name, score in TABLE.items() if score.fold is not None and name != scores.SECOND_SPLIT]


@pytest.mark.parametrize("name", FOLDED)
def test_a_nan_stays_and_the_samples_beside_it_are_what_they_were(name: str) -> None:
    rng = np.random.default_rng(0)
    epochs = rng.integers(0, 2, (12, 4)).astype(float)
    plain = over(name, *epochs.tolist())
    epochs[[1, -1], 2] = NAN  # epoch 2, which `el2n` is of, and the last one
    broken = over(name, *epochs.tolist())
    assert broken[:2] + broken[3:] == plain[:2] + plain[3:]
    if name == "first_learnt":
        assert broken[2] == 1.0 if epochs[0, 2] else math.isnan(broken[2])
    else:
        assert math.isnan(broken[2])


@pytest.mark.parametrize("name", FOLDED)
def test_epochs_before_a_class_was_seen_are_left_out(name: str) -> None:
    """The second sample begins at epoch 2, the third is never seen."""
    rng = np.random.default_rng(1)
    epochs = rng.integers(0, 2, (14, 3)).astype(float)
    epochs[0, 1] = NAN
    epochs[:, 2] = NAN
    seen = [[True, k > 0, False] for k in range(14)]
    found = over(name, *epochs.tolist(), seen=seen)
    alone = over(name, *([[v[1], v[0]] for v in epochs.tolist()]), seen=[[s[1], s[0]] for s in seen])
    assert found[:2] == alone[::-1], "whatever lies beside"
    assert math.isnan(found[2])
    assert not math.isnan(found[1])
    later = over(name, *([[v[1]] for v in epochs[1:].tolist()]))
    if name not in ("el2n", "grand", "grand_input", "first_learnt"):  # which speak of the number of the epoch
        assert found[1] == pytest.approx(later[0], rel=1e-12)


def test_average_precision_with_ties_and_without_positives() -> None:
    values, marks = np.array([3.0, 1.0, 2.0, 2.0, NAN]), np.array([1, 0, 1, 0, 1], dtype=bool)
    assert average_precision(values, marks) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([INF, INF, 0.0]), np.array([True, False, False])) == 0.5
    assert average_precision(values, np.zeros(5, dtype=bool)) is None


def test_every_row_says_all_of_itself() -> None:
    names = [column.name for column in scores.COLUMNS]
    for score in TABLE.values():
        assert score.formula
        assert score.within[0] < score.within[1]
        assert score.fold is None or set(score.needs) <= {*names, *scores.NORMS.values(), "lr", "first_half"}


@pytest.mark.parametrize("name", FOLDED)
def test_a_score_is_within_its_range_and_its_hard_end_is_that_of_hard_samples(name: str) -> None:
    """One sample is sure and right at all epochs, one wavers around the boundary and ends wrong."""
    score = TABLE[name]
    assert score.fold is not None
    fold, labels = score.fold(2), torch.tensor([0, 0])
    for epoch in range(12):
        wavering = [0.0, 0.4, 0.0] if epoch % 2 else [0.0, -0.4, -0.4]
        wavering = [0.0, 0.9, 0.0] if epoch == 0 else wavering
        columns = scores.of_logits(torch.tensor([[9.0, -9.0, -9.0], wavering]), labels)
        stored = {key: values.numpy().astype(np.float32) for key, values in columns.items()}
        stored |= {
            "lr": np.asarray(1.0),
            **dict.fromkeys(scores.NORMS.values(), stored["el2n"]),
        }  # of softmax regression in the same input
        score.step(fold, epoch, stored, np.ones(2, dtype=bool))
    easy, hard = fold.result().tolist()
    assert all(score.within[0] <= value <= score.within[1] for value in (easy, hard))
    assert (score.hard == "either") or np.sign(hard - easy) == (1 if score.hard == "high" else -1)


def test_the_variance_of_gradients_is_that_of_all_epochs_at_once(tmp_path: Path) -> None:
    """Against numpy over whole epochs in float64; a sample that begins later has fewer, one never seen has none."""
    rng = np.random.default_rng(0)
    values = (3 + rng.normal(size=(7, 5, 2, 3))).astype(np.float32)
    values[:3, 1] = np.nan
    values[:, 4] = np.nan
    moments = vog.Moments(tmp_path / "vog.npz")
    for epoch in (0, 1, 2, 2, 3, 4, 5, 6):  # one comes twice, as after a kill
        moments.add(epoch, values[epoch])
    assert moments.epochs() == list(range(7))
    found, exact = moments.deviation(), values.astype(np.float64)
    expected = [exact[:, k].std(0).mean() for k in (0, 2, 3)]
    np.testing.assert_allclose(found[[0, 2, 3]], expected, rtol=1e-5)
    assert found[1] == pytest.approx(exact[3:, 1].std(0).mean(), rel=1e-5)
    assert math.isnan(found[4])


def test_gradients_of_label_logits_of_a_linear_network_are_its_rows() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3)).double()
    images, labels = torch.randn(5, 1, 2, 3, dtype=torch.float64), torch.arange(5) % 3
    for gradient in ("param", "input", "none"):
        found = PerSample(model, (1, 2, 3), gradient, of_label=True).score(images, labels)
        assert found.of_label is not None
        torch.testing.assert_close(
            found.of_label.flatten(1).double(), model[1].weight[labels].detach(), rtol=1e-6, atol=0
        )
        plain = PerSample(model, (1, 2, 3), gradient).score(images, labels)
        torch.testing.assert_close(found.losses, plain.losses, rtol=1e-12, atol=0)
        assert (found.squares is None) == (plain.squares is None) == (gradient == "none")
        assert plain.of_label is None
