"""Which samples are hard by which score: in closed form, and against plain loops."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from modeconn_cli.engine.commands.correlate import hardness
from modeconn_cli.engine.commands.correlate.hardness import agreement, belonging
from modeconn_cli.engine.statistics import auroc, compared, correlations

NAN = math.nan


def of_pairs(values: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """For each marked sample and each other one: 1 where the marked one has the larger value, ½ where both have one."""
    return np.array([[(a > b) + (a == b) / 2 for b in values[~marks]] for a in values[marks]])


@pytest.mark.parametrize("seed", range(5))
def test_the_error_of_a_difference_is_delongs_on_the_same_samples(seed: int) -> None:
    """Against the covariances of the placements, written out; with ties and missing values."""
    rng = np.random.default_rng(seed)
    marks = rng.random(60) < 0.3
    first = np.round(rng.normal(size=60) + marks, 1)
    second = np.round(first + rng.normal(size=60) / 2, 1)
    second[3] = NAN
    found, error = compared(first, second, marks)
    keep = ~np.isnan(second)
    a, b = (of_pairs(values[keep], marks[keep]) for values in (first, second))
    assert found == pytest.approx(a.mean() - b.mean(), abs=1e-14)
    rows, columns = (np.cov(a.mean(k), b.mean(k)) for k in (1, 0))
    contrast = np.array([1.0, -1.0])
    variance = contrast @ (rows / a.shape[0] + columns / a.shape[1]) @ contrast
    assert error == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert compared(second, first, marks)[0] == pytest.approx(-found, abs=1e-15)
    assert auroc(first[keep], marks[keep]).value == pytest.approx(a.mean(), abs=1e-14)


def test_a_metric_is_not_behind_itself_and_one_kind_of_samples_tells_nothing() -> None:
    values, marks = np.arange(6.0), np.array([False, True, False, True, True, False])
    assert compared(values, values, marks) == (0.0, 0.0)
    assert compared(values, values, marks & False) == (None, None)
    assert compared(values, -values, np.arange(6) == 0)[1] is None, "one sample has no spread"


@pytest.fixture
def table() -> pd.DataFrame:
    """`up` is hard where it is high, `down` where it is low; both order the samples alike."""
    up = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    other = np.array([0.0, 5.0, 4.0, 1.0, 2.0, 3.0])
    flags = np.array([1.0, 1.0, 0.0, 0.0, 0.0, NAN])
    return pd.DataFrame(
        {"up": up, "down": -up, "other": other, "flag": flags},
        index=pd.Index(range(10, 16), name="sample_id"),
    )


ENDS = {"up": "high", "down": "low"}
METRICS = ["up", "down", "other"]


def test_flagged_samples_are_looked_for_at_the_hard_end(table: pd.DataFrame) -> None:
    rows = {row.metric: row for row in hardness.finding(table, ["flag"], METRICS, ENDS)}
    assert [(rows[name].auroc, rows[name].at_end, rows[name].end) for name in METRICS] == [
        (1.0, 1.0, "high"), (0.0, 1.0, "low"), (pytest.approx(0.5), pytest.approx(0.5), "high"),
    ]  # fmt: skip
    assert rows["down"].average_precision == 1.0
    assert (rows["up"].behind, rows["down"].behind, rows["other"].behind) == (0.0, 0.0, pytest.approx(0.5))
    assert (rows["up"].as_good, rows["down"].as_good) == (True, True)
    assert hardness.best_of(list(rows.values()), METRICS, ENDS) == "up"
    assert hardness.best_of([], METRICS, ENDS) == "up"


def test_ties_at_the_edge_belong_by_share_and_missing_values_to_none() -> None:
    values = np.array([2.0, 1.0, 1.0, 1.0, NAN, math.inf])
    assert belonging(values, 3).tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 0, 1])
    assert belonging(values, 9).tolist() == [1, 1, 1, 1, 0, 1], "no more than have a value"
    assert belonging(np.full(3, NAN), 2).tolist() == [0, 0, 0]


def test_the_agreement_of_the_hardest_is_that_of_sets(table: pd.DataFrame) -> None:
    for k in (1, 2, 3):
        found = agreement(table, METRICS, ENDS, k)
        sets = [set(np.argsort(-values)[:k]) for values in (table["up"], -table["down"], table["other"])]
        expected = [[len(a & b) / k for b in sets] for a in sets]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_scores_that_order_alike_agree_wholly_also_where_values_are_equal() -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 4, 60) / 3
    table = pd.DataFrame({"right": right, "wrong": 1 - right, "any": rng.normal(size=60)})
    for k in (1, 7, 23):
        found = agreement(table, ["right", "wrong", "any"], {"right": "low"}, k)
        np.testing.assert_allclose(found[:2, :2], 1.0, rtol=1e-12)
        assert found[2, 2] == pytest.approx(1.0, rel=1e-12)
        tied, sure = belonging(1 - right, k), belonging(table["any"].to_numpy(), k)
        assert found[0, 2] == pytest.approx(float(tied @ sure) / k, rel=1e-12), (
            "shares of those that are sure"
        )


@pytest.mark.parametrize(("flagged", "said"), [(0, "none of the samples"), (6, "all of the samples")])
def test_the_advice_says_where_flags_tell_nothing_apart(table: pd.DataFrame, flagged: int, said: str) -> None:
    table["flag"] = [1.0] * flagged + [0.0] * (6 - flagged)
    rows = hardness.finding(table, ["flag"], METRICS, ENDS)
    (advice,) = hardness.advice(table, rows, hardness.best_of(rows, METRICS, ENDS), METRICS)
    assert advice == f"{said} are flagged as flag: there is nothing to tell apart"


def test_no_score_is_called_the_best_that_may_be_chance() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=80), "b": rng.normal(size=80), "flag": np.arange(80) % 2.0})
    rows = hardness.finding(table, ["flag"], ["a", "b"], {})
    best = hardness.best_of(rows, ["a", "b"], {})
    assert hardness.advice(table, rows, best, ["a", "b"])[0].startswith(
        "no score is known to find flag better than chance (95 %); the largest: "
    )
    table["a"] += table["flag"]
    rows = hardness.finding(table, ["flag"], ["a", "b"], {})
    assert hardness.advice(table, rows, "a", ["a", "b"])[0].startswith("best at finding flag: a, AUROC 0.")


def test_a_metric_with_too_few_values_agrees_with_none(table: pd.DataFrame) -> None:
    table.loc[11:, "other"] = NAN
    found = agreement(table, METRICS, ENDS, 2)
    assert np.isnan(found[2]).all()
    assert found[0].tolist()[:2] == [1.0, 1.0]


def test_rank_correlations_have_the_hard_ends_together(table: pd.DataFrame) -> None:
    found = hardness.oriented(correlations({name: table[name].to_numpy() for name in METRICS}), METRICS, ENDS)
    ranks = {name: hardness.hard(table[name], ENDS.get(name, "")).argsort().argsort() for name in METRICS}
    for (i, a), (j, b) in product(enumerate(METRICS), repeat=2):
        assert found[i, j] == pytest.approx(np.corrcoef(ranks[a], ranks[b])[0, 1], abs=1e-12)


def test_the_list_of_the_hardest_begins_with_the_hardest(table: pd.DataFrame) -> None:
    table["class_id"] = [0.0, 1.0, NAN, 3.0, 4.0, 5.0]
    found = hardness.listed(table, "down", ENDS, ["flag"], 3)
    assert found["sample_id"].tolist() == [10, 11, 12]
    assert found["rank"].tolist() == [1, 2, 3]
    assert found["down"].tolist() == [-5.0, -4.0, -3.0]
    assert found["class_id"].isna().tolist() == [False, False, True]


def test_the_advice_names_the_best_what_equals_it_and_whether_labels_are_fitted(table: pd.DataFrame) -> None:
    table = pd.concat([table] * 9)  # of five samples even the best order may be chance
    table["margin_last"] = [1.0, 2.0, -1.0, 3.0, 4.0, 5.0] * 9
    metrics = [*METRICS, "margin_last"]
    rows = hardness.finding(table, ["flag"], metrics, ENDS | {"margin_last": "low"})
    first, second = hardness.advice(table, rows, "up", metrics)
    assert first.startswith("best at finding flag: up, AUROC 1.0000")
    assert "not told apart from it (95 %): down" in first
    assert "83.3 %" in second
    assert "does not fit" in second
    table["margin_last"] = 1.0
    assert "fitted" in hardness.advice(table, rows, "up", metrics)[1]
