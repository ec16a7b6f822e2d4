"""`mcx l2` of checkpoints that are unusual: equal, huge, zero, of other precision."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor


@pytest.fixture
def saved(tmp_path: Path):
    def save(name: str, **state: Tensor) -> Path:
        path = tmp_path / f"{name}.pt"
        with path.open("wb") as stream:
            torch.save(state, stream)
        return path

    return save


def test_d1_a_copy_of_a_file_is_the_same_file(mcx, pair: list[Path], tmp_path: Path) -> None:
    copy = shutil.copy(pair[0], tmp_path / "copy.pt")
    done = mcx("l2", pair[0], copy, "--json")
    assert (done.code, json.loads(done.out)["total_l2"]) == (0, 0.0)
    assert "mcx l2: warning: the two checkpoints hold the same weights\n" in done.err


def test_d4_values_near_the_largest_do_not_overflow(mcx, saved) -> None:
    a, b = saved("a", w=torch.full((4,), 1e20)), saved("b", w=torch.full((4,), -3e38))
    found = json.loads(mcx("l2", a, b, "--json").out)
    exact = 2 * (float(torch.tensor(1e20)) + float(torch.tensor(3e38)))
    assert math.isclose(found["total_l2"], exact, rel_tol=1e-12)
    assert "nonfinite" not in found


def test_d3_a_zero_reference_has_no_relative_distance_and_no_warning(mcx, saved) -> None:
    a, b = saved("a", w=torch.zeros(4), v=torch.ones(4)), saved("b", w=torch.ones(4), v=torch.ones(4))
    done = mcx("l2", a, b, "--json")
    found = json.loads(done.out)
    assert found["all_layer_distances"]["w"]["relative_distance"] is None
    assert found["relative_total"] == 1.0
    assert "warning" not in done.err
    text = mcx("l2", a, b, "--sort-by", "relative_distance").out
    assert re.search(r"1\. v: 0\.0000% .*\n  2\. w: n/a ", text)


def test_d3_an_all_zero_reference_is_said_to_have_none(mcx, saved) -> None:
    done = mcx("l2", saved("a", w=torch.zeros(4)), saved("b", w=torch.ones(4)))
    assert done.code == 0
    assert done.err.endswith("relative to the first network: n/a\n")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_b12_other_precisions_are_compared_in_float64_with_a_note(mcx, saved, kind: torch.dtype) -> None:
    values = torch.tensor([0.1, -0.2, 0.3])
    a, b = saved("a", w=values), saved("b", w=values.to(kind) * 2)
    done = mcx("l2", a, b, "--json")
    exact = (values.double() - (values.to(kind) * 2).double()).norm()
    assert math.isclose(json.loads(done.out)["total_l2"], float(exact), rel_tol=1e-12)
    assert "differ in precision; both are taken to float64\n" in done.err


def test_b12_empty_scalar_and_integer_tensors_are_counted_as_they_are(mcx, saved) -> None:
    state = {"w": torch.ones(2), "scale": torch.tensor(3.0), "none": torch.ones(0), "steps": torch.tensor(5)}
    found = json.loads(
        mcx("l2", saved("a", **state), saved("b", **{**state, "scale": torch.tensor(7.0)}), "--json").out
    )
    assert (found["total_l2"], found["total_params"], found["num_layers"]) == (4.0, 3, 3)
    assert found["all_layer_distances"]["none"]["normalized_l2"] == 0.0


def test_d5_more_layers_than_there_are_is_all_of_them(mcx, pair: list[Path]) -> None:
    out = mcx("l2", *pair, "--show-top-k", "1000").out
    assert out.endswith(
        "Top 1 layers by normalized L2 distance:\n  1. fc.weight: 3.027650 (raw: 7.42, params: 6)\n"
    )


def test_b10_d2_different_shapes_are_all_counted(mcx, saved) -> None:
    a = saved("a", w=torch.ones(2, 3), v=torch.ones(4))
    b = saved("b", w=torch.ones(3, 3), v=torch.ones(5))
    done = mcx("l2", a, b)
    assert (done.code, done.out) == (3, "")
    assert (
        f"2 of 2 tensors differ in shape between '{a}' and '{b}': w (2, 3) and (3, 3); v (4,) and (5,)"
        in done.err
    )


def test_whole_numbers_are_not_compared_with_fractions(mcx, saved) -> None:
    done = mcx("l2", saved("a", w=torch.ones(2)), saved("b", w=torch.ones(2, dtype=torch.int64)))
    assert (done.code, done.out) == (3, "")
