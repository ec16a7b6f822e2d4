"""No group of a network made at random is anything but a symmetry of it; `make soundness N=10000` tries more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from modeconn_cli.engine.symmetry.registry import RULES, Step
from soundness.check import Report, check, kind
from soundness.networks import Generated, Program, drawn, example, programs, shrunk


@pytest.mark.parametrize("number", range(3))
def test_groups_of_a_few_networks_are_symmetries(number: int) -> None:
    verdict = check(drawn(number), number)
    assert (verdict.unsound, verdict.not_finite) == ("", False)


@pytest.mark.slow
@settings(max_examples=300, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(program=programs())
def test_groups_of_300_networks_are_symmetries(program: Program) -> None:
    assert check(program).unsound == ""


@pytest.mark.slow
def test_most_groups_of_generated_networks_are_seen_in_their_outputs() -> None:
    """Without this a proof would be of networks whose outputs do not depend on what moves."""
    report = Report()
    for number in range(200, 300):
        report.take(number, check(drawn(number), number))
    assert not report.unsound
    assert report.with_groups > 60
    assert report.joined > 150
    assert report.seen > 0.8 * report.joined
    assert report.not_finite < 5


def unmoved(step: Any, x: Any, **_: object) -> Any:
    """A rule that demands nothing: what it gives may move as what it is given."""
    return x


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layer_norm", "group_norm", "batch_norm", "cumsum", "mul"])
def test_a_rule_that_demands_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(RULES, name, unmoved)
    rare = {"cumsum": "ordered"}.get(name)  # the instruction that makes it, where few programs have one
    numbers = (n for n in range(800) if rare in (None, *(each[0] for each in drawn(n).instructions)))
    found = next(n for n in numbers if check(drawn(n), n).unsound)
    fails: Callable[[Program], bool] = lambda program: bool(check(program, found).unsound)  # noqa: E731
    smallest = shrunk(drawn(found), fails)
    assert fails(smallest)
    assert len(smallest.instructions) <= 5
    assert not any(fails(smallest.without(place)) for place in range(len(smallest.instructions)))
    monkeypatch.undo()
    assert check(smallest, found).unsound == ""


def test_an_operation_that_hides_what_it_mixes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax over the entries of two heads: each head may have its own order of them, but no entry one of heads."""
    made = (("linear", 0, 6, 1), ("reshape", 0, 0, 1), ("activation", 0, 4, 0), ("reshape", 0, 0, 0))
    program = Program("vector", made)
    found = check(program)
    assert (found.unsound, found.groups, found.nested) == ("", 2, 1)
    monkeypatch.setattr(Step, "mixes", lambda step, *_, **__: step.notes.mixed.setdefault(step.node, []))
    assert "outputs differ" in check(program).unsound


def test_the_program_of_a_number_and_its_network_are_always_the_same() -> None:
    assert drawn(7) == drawn(7) != drawn(8)
    one, other = Generated(drawn(7)), Generated(drawn(7))
    inputs = example(drawn(7)).double() if drawn(7).start != "tokens" else example(drawn(7))
    assert torch.equal(one(inputs), other(inputs))


def test_reasons_are_counted_without_places_and_numbers() -> None:
    said = "aten.cumsum (a.b, net.py:12: return x.cumsum(1)) reads its input in order"
    assert kind(said) == "aten.cumsum reads its input in order"
