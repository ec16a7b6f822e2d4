"""Ids and labels: exactly the numbers that were given, or refused before anything is cast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import columns

ONES = np.eye(3, dtype=np.int64)[[2, 0, 1, 2]]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (np.array([2, 0, 1, 2], np.uint8), None),
        (np.array([[2], [0], [1], [2]], np.int64), None),
        (np.array([2.0, 0.0, 1.0, 2.0], np.float16), None),
        (torch.tensor([2, 0, 1, 2], dtype=torch.bfloat16, requires_grad=True), None),
        ([np.int64(2), 0, 1, 2.0], None),
        (np.array([2, 0, 1, 2], dtype=object), None),
        (ONES, 3),
        (ONES.astype(bool), 3),
        (torch.tensor(ONES, dtype=torch.float32), 3),
    ],
)
def test_labels_of_every_exact_kind_are_taken(values: Any, classes: int | None) -> None:
    found = exact.labels(values, "it")
    assert (found.numbers.tolist(), found.numbers.dtype, found.classes) == ([2, 0, 1, 2], np.int64, classes)


def test_truth_values_are_two_classes_and_no_ids() -> None:
    assert exact.labels(np.array([True, False]), "it").numbers.tolist() == [1, 0]
    with pytest.raises(InputError, match="2 sample ids that are not whole numbers: the first is 'True'"):
        exact.ids(np.array([True, False]), "it")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.7, 1.0], "1 labels that are not whole numbers: the first is '0.7'"),
        ([np.nan, 1.0], "not whole numbers: the first is 'nan'"),
        ([np.inf, 1.0], "not whole numbers"),
        ([0, -1], "1 negative labels: the first is -1"),
        (["cat", "dog"], "2 labels that are not whole numbers: the first is 'cat'"),
        (np.array([b"0", b"1"]), "not whole numbers"),
        (np.array([None, 1], dtype=object), "not whole numbers: the first is 'None'"),
        (np.array([0, 1], dtype="datetime64[s]"), "not whole numbers"),
        (np.array([0, 1j]), "not whole numbers"),
        (np.array([[1, 1, 0], [1, 0, 0]], dtype=bool), r"must be one-hot, 1 of 2 rows are not: row 0"),
        (np.array([[1.0, 0.0], [0.3, 0.7]]), r"row 1 is \[0.3, 0.7\]"),
        (np.array([[0, 0], [0, 1]]), "row 0"),
        (np.array([[2, 0], [0, 1]]), "row 0"),
        (np.array([[np.nan, 1], [0, 1]]), "row 0"),
        (np.array([["a", "b"]]), "shape"),
        (np.zeros((2, 4, 4)), r"shape \(2, 4, 4\)"),
        ([[1], [2, 3]], "labels are no array"),
        (np.array(1), r"shape \(\)"),
    ],
)
def test_labels_that_a_cast_would_change_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        exact.labels(values, "it")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(4) / 2, "2 sample ids that are not whole numbers: the first is '0.5'"),
        ([3, 5, 3, 3], "2 duplicate sample ids: the first is 3"),
        ([3, -5], "1 negative sample ids: the first is -5"),
        (np.array([2.0**53, 1.0]), "1 sample ids that are not whole numbers: the first is '9007199254740992.0'"),
        (np.array([2**24, 1], np.float32), "1 sample ids that are not whole"),
        (np.array([2**63, 1], np.uint64), "1 sample ids that are not whole numbers: the first is '92233720368547"),
        (np.array([2**70, 1], dtype=object), "1 sample ids that are not whole"),
        (["a.png", "b.png"], "the first is 'a.png'"),
        (["7", "8"], "2 sample ids that are not whole numbers: the first is '7'"),
    ],
)  # fmt: skip
def test_l8_ids_that_a_cast_would_change_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        exact.ids(values, "it")
    assert ("number the samples" in caught.value.hint) == ("not whole" in message or "a.png" in message)


def test_l8_large_ids_are_kept_to_the_last_digit() -> None:
    large = [2**53 + 1, 2**63 - 1, 2**53]
    assert exact.ids(np.array(large), "it").tolist() == large
    assert exact.ids([str(i) for i in large], "it", spelled=True).tolist() == large


@given(st.lists(st.integers(0, 2**63 - 1), unique=True), st.sampled_from(["{}", "{}.0", " {} ", "+{}"]))
def test_spelled_ids_are_what_they_spell(numbers: list[int], how: str) -> None:
    assert exact.ids([how.format(i) for i in numbers] or (), "it", spelled=True).tolist() == numbers


@pytest.mark.parametrize("text", ["1_0", "x", "", "0x1", "1.5", "nan", "inf", "1e400", "9" * 5000, "١"])
def test_l8_texts_that_spell_no_id_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="not whole numbers"):
        exact.ids(np.array([text], dtype=object), "it", spelled=True)


def test_empty_arrays_are_no_labels_and_no_ids() -> None:
    assert exact.labels((), "it").numbers.shape == exact.ids(np.zeros(0), "it").shape == (0,)
    assert exact.labels(np.zeros((0, 4)), "it").classes == 4


def test_tables_and_arrays_know_the_same_ids() -> None:
    mixed = np.array(["7", 8.0, 9, b"10"], dtype=object)
    assert columns.sample_ids(mixed, Path("t.csv")).tolist() == [7, 8, 9, 10]
    with pytest.raises(InputError, match="the first is empty"):
        columns.sample_ids([1, None], Path("t.csv"))
