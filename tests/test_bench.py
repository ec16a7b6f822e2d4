"""The bench's machinery on trivial pairs, and what can be counted where the bench takes times."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.transforms import named
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.models.cnn import cnn
from modeconn_cli.engine.paths.layers import layer_distances
from modeconn_cli.engine.paths.path import WeightPath
from modeconn_cli.engine.paths.problem import PathProblem
from modeconn_cli.engine.results import files
from modeconn_cli.engine.training import evaluate, fit, make_optimizer
from modeconn_cli.engine.training.loop import Recipe

SHAPE = (3, 8, 8)


class Bench:
    """The modules of `bench/`, which is not installed."""

    def __init__(self) -> None:
        self.pairs, self.table, self.counts, self.main = (
            importlib.import_module(f"bench.{name}") for name in ("pairs", "table", "counts", "__main__")
        )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    return Bench()


def samples(count: int) -> Samples:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8)
    return Samples(pixels, torch.arange(count) % 10, torch.arange(count), named("half", 3))


def control_points() -> list[dict[str, Tensor]]:
    out = []
    for seed in range(3):
        torch.manual_seed(seed)
        out.append({name: p.detach() for name, p in cnn(SHAPE, 10, 4).named_parameters()})
    return out


def test_pairs_alternate_and_change_their_order(bench: Bench, tmp_path: Path) -> None:
    calls: list[str] = []
    pair = bench.pairs.Pair(lambda: calls.append("a"), lambda: calls.append("b"))
    case = bench.pairs.Case("trivial", 2.0, lambda _folder: pair)
    result = bench.pairs.measure(case, tmp_path, 3, 60.0)
    assert "".join(calls) == "ab" + "abbaab"
    assert (len(result.ours), len(result.reference)) == (3, 3)


def test_a_slow_case_takes_the_least_number_of_pairs(bench: Bench, tmp_path: Path) -> None:
    case = bench.pairs.Case("slow", 2.0, lambda _folder: bench.pairs.Pair(lambda: None, lambda: None))
    result = bench.pairs.measure(case, tmp_path, 100, 0.0)
    assert len(result.ours) == bench.pairs.LEAST
    assert bench.main.remarks([result], 100, 0.0) == ["slow: 5 of 100 pairs, stopped after 0 s (--seconds)"]


def test_the_ratio_is_the_median_over_pairs(bench: Bench) -> None:
    result = bench.pairs.Result("name", 1.5, [1.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert result.figures == [1.0, 2.0, 3.0]
    assert (result.median, result.within) == (2.0, False)
    assert result.spread == pytest.approx((1.2, 2.8))


def test_the_table_is_aligned_with_facts_below(bench: Bench) -> None:
    results = [
        bench.pairs.Result("ratio", 1.5, [0.02, 0.02], [0.01, 0.02], ("two things",)),
        bench.pairs.Result("seconds", 2.5, [2.0, 2.0], []),
    ]
    assert bench.table.text(results).splitlines() == [
        "name        ours  reference  ratio      10-90 %  limit  pairs  verdict",
        "ratio    20.0 ms    15.0 ms  1.500    1.10-1.90    1.5      2  ok",
        "seconds  2.000 s          –      –  2.00-2.00 s  2.5 s      2  ok",
        "",
        "ratio: two things",
    ]


def test_every_case_has_its_own_name(bench: Bench) -> None:
    names = [case.name for case in bench.main.CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("count", "batch_size", "forwards"), [(20, 8, 3), (16, 8, 2), (5, 8, 1), (17, 8, 3)])
def test_evaluation_makes_one_forward_per_batch(
    bench: Bench, count: int, batch_size: int, forwards: int
) -> None:
    model = cnn(SHAPE, 10, 4)
    with bench.counts.passes(model) as found:
        evaluate(model, samples(count), batch_size)
    assert found == {"forward": forwards}


def test_a_curve_step_makes_one_forward_and_one_backward(bench: Bench) -> None:
    model = cnn(SHAPE, 10, 4)
    problem = PathProblem(
        model, WeightPath.through("bezier", control_points(), model), weight_decay=5e-4, seed=0
    )
    recipe = Recipe(
        epochs=2, lr=0.01, momentum=0.9, weight_decay=5e-4, optimizer="sgd", schedule="constant",
        batch_size=8, seed=0, data_seed=0,
    )  # fmt: skip
    with bench.counts.passes(model) as found:
        list(fit(problem, make_optimizer(problem, recipe), samples(24), recipe, Runtime(threads=1)))
    assert found == {"forward": 6, "backward": 6}


@pytest.mark.parametrize("positions", [2, 61])
def test_layer_analysis_reads_every_control_point_once_and_builds_no_network(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, positions: int
) -> None:
    points = control_points()
    swapped = {name: tensor.clone() for name, tensor in points[0].items()}
    tensors = [tensor for point in (*points, swapped) for tensor in point.values()]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(nn.Module, "__init__", refuse)
    with bench.counts.Reads(tensors) as reads:
        layer_distances("bezier", points, np.linspace(0, 1, positions), swapped)
    assert [reads.elements[i] for i in range(len(tensors))] == [tensor.numel() for tensor in tensors]


def test_reads_see_a_second_look(bench: Bench) -> None:
    tensor = torch.ones(3, 4)
    with bench.counts.Reads([tensor]) as reads:
        tensor.view(12)[:6].sum()
        tensor.sum()
    assert reads.elements[0] == 6 + 12


def test_a_checkpoint_is_opened_no_more_often_than_by_a_check_and_a_load(
    bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint-1.pt"
    files.write_tensors(path, {"epoch": 1, "model_state": control_points()[0]})
    with bench.counts.opens(path) as found:
        checkpoints.read(path)
    assert 1 <= len(found) <= 2
