"""Memorisation and influence of learners whose answers are known, and counted one by one."""

from __future__ import annotations

import math

import numpy as np
import torch

from modeconn_cli.engine.commands.memo import estimate
from modeconn_cli.engine.commands.memo.estimate import influences, memorisation
from modeconn_cli.engine.commands.memo.tables import joined
from modeconn_cli.engine.training.members import members

PLACES = np.concatenate([np.arange(10.0), 100 + np.arange(10.0), [4.4]])
LABELS = np.concatenate([np.zeros(10, int), np.ones(11, int)])  # the last lies among those of the other class


def drawn(count: int = 64) -> np.ndarray:
    """Who is trained on what, bool [T, N]."""
    out = np.zeros((count, len(PLACES)), dtype=bool)
    for row, member in zip(out, members(range(count), torch.arange(len(PLACES)), 0.7, seed=0), strict=True):
        row[member.rows.numpy()] = True
    return out


def nearest(trained: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The label of the nearest place that a learner was trained on, int [T, places]."""
    distances = np.abs(places[:, None] - PLACES[None, :])
    return np.stack([LABELS[np.where(own, distances, np.inf).argmin(1)] for own in trained])


def test_a_nearest_neighbour_memorises_an_isolated_flipped_label_wholly() -> None:
    trained = drawn()
    found = memorisation(trained, nearest(trained, PLACES) == LABELS)
    assert found.value[-1] == 1
    beside = found.value[[4, 5]]  # whose nearest it may be
    assert ((beside > 0) & (beside < 1)).all()
    assert (np.delete(found.value, [4, 5, 20]) == 0).all()


def test_a_learner_that_always_says_the_same_memorises_nothing() -> None:
    trained = drawn()
    for answer in (0, 1):
        right = np.broadcast_to(answer == LABELS, trained.shape)
        found = memorisation(trained, right)
        assert (found.value == 0).all()
        assert (found.error > 0).all(), "no share of a few networks is certain"


def test_errors_are_those_of_the_smoothed_shares() -> None:
    trained = np.zeros((256, 2), dtype=bool)
    trained[:179] = True
    right = np.zeros((256, 2), dtype=bool)
    right[:89], right[179:218] = True, True
    right[:, 1] = trained[:, 1]
    found = memorisation(trained, right)
    p, q = 90 / 181, 40 / 79
    assert found.value[0] == 89 / 179 - 39 / 77
    assert math.isclose(found.error[0], math.sqrt(p * (1 - p) / 179 + q * (1 - q) / 77), rel_tol=1e-14)
    assert 0.067 < found.error[0] < 0.07, "the largest that 256 networks leave"
    a, b = 180 / 181, 1 / 79
    assert found.value[1] == 1
    assert math.isclose(found.error[1], math.sqrt(a * (1 - a) / 179 + b * (1 - b) / 77), rel_tol=1e-14)


def test_images_in_all_or_in_none_of_the_sets_have_no_score() -> None:
    trained = np.array([[True, False, True], [True, False, False], [True, False, True]])
    found = memorisation(trained, np.ones_like(trained))
    assert np.isnan(found.value).tolist() == np.isnan(found.error).tolist() == [True, True, False]
    assert len(joined(influences(trained, np.ones((3, 4), dtype=bool), 0.0)).of) == 0


def test_influences_are_the_differences_of_every_pair(monkeypatch) -> None:
    trained = drawn(40)
    places = np.array([4.4, 4.6, 2.2, 104.5, 60.0])
    right = nearest(trained, places) == np.array([1, 0, 0, 1, 0])
    for block in (estimate.BLOCK, 10):  # two training images at a time
        monkeypatch.setattr(estimate, "BLOCK", block)
        found = joined(influences(trained, right, 0.1))
        pairs = {}
        for i in range(len(PLACES)):
            inside = trained[:, i]
            for j in range(len(places)):
                value = right[inside, j].mean() - right[~inside, j].mean()
                if value > 0.1:
                    p, q = (
                        (each.sum() + 1) / (len(each) + 2) for each in (right[inside, j], right[~inside, j])
                    )
                    error = math.sqrt(p * (1 - p) / inside.sum() + q * (1 - q) / (~inside).sum())
                    pairs[i, j] = value, error
        of = zip(found.of.tolist(), found.on.tolist(), strict=True)
        assert list(of) == sorted(pairs)
        np.testing.assert_allclose(np.stack([found.value, found.error], 1), list(pairs.values()), rtol=1e-13)
        assert pairs[20, 0][0] == 1, "the flipped image alone gives its own place its label"
