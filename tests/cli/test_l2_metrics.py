"""Further metrics of `mcx l2`, trajectories, and files that are mapped."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from modeconn_cli.engine.networks import checkpoints, sums
from modeconn_cli.engine.networks.checkpoints import integrity


def pair(networks: Path) -> list[Path]:
    return [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]


def vector(path: Path) -> Tensor:
    state = torch.load(path, weights_only=True)["model_state"]
    return torch.cat([tensor.double().flatten() for tensor in state.values()])


@pytest.fixture
def swapped(mcx: Callable, networks: Path, tmp_path: Path) -> Path:
    output = tmp_path / "swapped/checkpoint-4.pt"
    assert mcx("swap", "--checkpoint", pair(networks)[0], "--output", output, "--num-swaps", "2").code == 0
    return output


def test_all_metrics_come_from_one_call(mcx: Callable, networks: Path) -> None:
    words = ("--metric", "l2,cosine,fisher,functional", "--fisher-samples", "50", "--json")
    done = mcx("l2", *pair(networks), *words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    a, b = map(vector, pair(networks))
    assert found["total_l2"] == pytest.approx(float((a - b).norm()), rel=1e-12)
    assert found["cosine_distance"] == pytest.approx(1 - float(F.cosine_similarity(a, b, 0)), rel=1e-9)
    layers = found["all_layer_distances"].values()
    assert found["fisher_distance"] ** 2 == pytest.approx(sum(row["fisher_distance"] ** 2 for row in layers))
    assert found["data"]["fisher"] == {
        "kind": "true", "seed": 0, "dataset": "digits", "split": "all-train", "samples": 50, "label_noise": 0.0,
        "transform": {"name": "half", "mean": [0.5], "std": [0.5]},
    }  # fmt: skip
    functional = found["data"]["functional"]
    assert (functional["dataset"], functional["split"], functional["samples"]) == ("digits", "test", 360)
    assert set(found["functional"]) == {"disagreement", "kl", "logit_distance", "samples"}
    assert 0 < found["functional"]["disagreement"] <= 1


def test_what_was_not_asked_for_is_not_shown(mcx: Callable, networks: Path) -> None:
    done = mcx("l2", *pair(networks), "--metric", "cosine")
    assert done.out.startswith("Further distances:\n  Cosine distance: ")
    assert "L2 Distance Statistics" not in done.out
    assert "Fisher" not in done.out


def test_layers_can_be_sorted_by_their_fisher_distance(mcx: Callable, networks: Path) -> None:
    words = ("--metric", "l2,fisher", "--fisher-samples", "50", "--sort-by", "fisher_distance")
    done = mcx("l2", *pair(networks), *words, "--json")
    values = [row["fisher_distance"] for row in json.loads(done.out)["top_10_layers"]]
    assert values == sorted(values, reverse=True)
    assert "Top 10 layers by Fisher distance:" in mcx("l2", *pair(networks), *words).out
    done = mcx("l2", *pair(networks), "--sort-by", "fisher_distance")
    assert (done.code, "--sort-by fisher_distance needs that metric" in done.err) == (2, True)


def test_the_fisher_distance_does_not_depend_on_the_batch(mcx: Callable, networks: Path) -> None:
    words = ("--metric", "fisher", "--fisher-samples", "40", "--json")
    one, other = (
        json.loads(mcx("l2", *pair(networks), *words, "--batch-size", size).out) for size in ("40", "7")
    )
    assert one["fisher_distance"] == pytest.approx(other["fisher_distance"], rel=1e-5)


def test_a_swapped_network_is_far_away_and_answers_the_same(
    mcx: Callable, networks: Path, swapped: Path
) -> None:
    words = ("--metric", "l2,functional", "--modulo-permutation", "--json")
    done = mcx("l2", pair(networks)[0], swapped, *words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["total_l2"] > 0.1
    assert (found["functional"]["disagreement"], found["functional"]["kl"]) == (
        0.0,
        pytest.approx(0, abs=1e-9),
    )
    assert found["modulo_permutation"]["total_l2"] == 0.0
    assert found["modulo_permutation"]["metadata"] == [str(swapped.with_name("checkpoint-4_metadata.json"))]
    reverse = json.loads(mcx("l2", swapped, pair(networks)[0], *words).out)
    assert reverse["modulo_permutation"]["total_l2"] == 0.0


def test_no_known_swap_is_an_error(mcx: Callable, networks: Path) -> None:
    done = mcx("l2", *pair(networks), "--modulo-permutation")
    assert (done.code, "no swap is known" in done.err) == (3, True)


@pytest.fixture
def run(mcx: Callable, tmp_path: Path) -> Path:
    words = (
        "--model",
        "mlp",
        "--dataset",
        "digits",
        "--epochs",
        "4",
        "--save-freq",
        "1",
        "--max-samples",
        "200",
    )
    assert mcx("train", *words, "--output-dir", tmp_path / "run").code == 0
    return tmp_path / "run/seed0"


def test_the_folder_of_a_run_gives_its_trajectory(mcx: Callable, run: Path, tmp_path: Path) -> None:
    done = mcx("l2", run, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    with (tmp_path / "out/trajectory.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    points = [vector(run / f"checkpoint-{epoch}.pt") for epoch in range(5)]
    assert [int(row["epoch"]) for row in rows] == list(range(5))
    length = 0.0
    for k, (row, point) in enumerate(zip(rows, points, strict=True)):
        assert float(row["from_start"]) == pytest.approx(float((point - points[0]).norm()), rel=1e-9)
        assert float(row["from_end"]) == pytest.approx(float((point - points[-1]).norm()), rel=1e-9)
        if k:
            length += float((point - points[k - 1]).norm())
            assert float(row["step"]) == pytest.approx(float((point - points[k - 1]).norm()), rel=1e-9)
        assert float(row["length"]) == pytest.approx(length, rel=1e-9)
        if 0 < k < 4:
            turn = F.cosine_similarity(point - points[k - 1], points[k + 1] - point, 0)
            assert float(row["turn"]) == pytest.approx(float(turn), abs=1e-6)
    assert (tmp_path / "out/trajectory.png").read_bytes().startswith(b"\x89PNG")
    assert "Trajectory" in done.out
    assert (tmp_path / "out/checkpoint-0-checkpoint-4.json").exists()


def test_a_range_of_epochs_and_a_pattern_choose(mcx: Callable, run: Path) -> None:
    found = json.loads(mcx("l2", run, "--start-epoch", "1", "--end-epoch", "3", "--step", "2", "--json").out)
    assert list(found["checkpoints"]) == ["checkpoint-1", "checkpoint-3"]
    done = mcx("l2", run, run / "checkpoint-1.pt")
    assert (done.code, "two checkpoints are called" in done.err) == (2, True)
    found = json.loads(mcx("l2", f"{run}/checkpoint-?.pt", "--json").out)
    assert [row["epoch"] for row in found["trajectory"]] == list(range(5))
    done = mcx("l2", *sorted(run.glob("*.pt"))[:2], "--start-epoch", "1")
    assert (done.code, "choose from a folder or a pattern" in done.err) == (2, True)


def test_all_pairs_give_a_matrix_and_a_heat_map(mcx: Callable, run: Path, tmp_path: Path) -> None:
    words = ("--pairs", "all", "--metric", "l2,cosine,functional", "--output-dir", tmp_path / "out")
    assert mcx("l2", run, *words).code == 0
    points = [vector(run / f"checkpoint-{epoch}.pt") for epoch in range(5)]
    with np.load(tmp_path / "out/matrix.npz") as found:
        assert found["labels"].tolist() == [f"checkpoint-{epoch}" for epoch in range(5)]
        for i in range(5):
            for j in range(5):
                expected = float((points[i] - points[j]).norm())
                assert found["total_l2"][i, j] == pytest.approx(expected, rel=1e-9)
        assert (found["disagreement"] == found["disagreement"].T).all()
    assert (tmp_path / "out/heatmap.png").exists()
    assert len(list((tmp_path / "out").glob("checkpoint-*.json"))) == 10


def test_every_file_is_opened_once(mcx: Callable, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    original = integrity.opened
    monkeypatch.setattr(integrity, "opened", lambda path: (opened.append(path), original(path))[1])
    assert mcx("l2", run, "--pairs", "all").code == 0
    assert sorted(opened) == sorted(run.glob("*.pt"))


def test_one_broken_network_among_many_spoils_its_own_pairs(mcx: Callable, run: Path, tmp_path: Path) -> None:
    """All pairs come from one Gram matrix, which a NaN would spoil."""
    names = [f"n{k}" for k in range(9)]
    torch.manual_seed(0)
    for name in names:
        torch.save({"w": torch.randn(50), "v": torch.randn(3)}, tmp_path / f"{name}.pt")
    torch.save({"w": torch.full((50,), math.nan), "v": torch.randn(3)}, tmp_path / "n4.pt")
    (tmp_path / "n6.pt").write_bytes((tmp_path / "n6.pt").read_bytes()[:300])
    paths = [tmp_path / f"{name}.pt" for name in names]
    done = mcx("l2", *paths, "--pairs", "all", "--json")
    assert done.code == 3
    rows = {row["pair"]: row for row in json.loads(done.out)["pairs"]}
    for i in range(9):
        for j in range(i + 1, 9):
            row = rows[f"n{i}-n{j}"]
            if {4, 6} & {i, j}:
                assert row["total_l2"] is None
                assert ("NaN or infinity" in row["status"]) or ("truncated" in row["status"])
            else:
                a, b = (torch.cat([t.double() for t in torch.load(paths[k]).values()]) for k in (i, j))
                assert row["total_l2"] == pytest.approx(float((a - b).norm()), rel=1e-9)


def test_sharded_safetensors_are_never_loaded(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    tensors: dict[str, dict[str, Tensor]] = {}
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        tensors[side] = {f"layer{k}.weight": torch.randn(64, 32).to(torch.bfloat16) for k in range(4)}
        names = list(tensors[side])
        weight_map = {}
        for shard in (0, 1):
            part = {name: tensors[side][name] for name in names[shard::2]}
            save_file(part, tmp_path / side / f"model-{shard}.safetensors")
            weight_map |= dict.fromkeys(part, f"model-{shard}.safetensors")
        (tmp_path / side / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    monkeypatch.setattr(checkpoints.safe, "load", lambda *_: pytest.fail("a file was loaded whole"))
    indices = [tmp_path / side / "model.safetensors.index.json" for side in ("a", "b")]
    output = tmp_path / "x.json"
    found = json.loads(mcx("l2", *indices, "--json", "--output", output).out)
    a, b = (torch.cat([t.double().flatten() for t in tensors[side].values()]) for side in ("a", "b"))
    assert found["total_l2"] == pytest.approx(float((a - b).norm()), rel=1e-12)
    # The index alone says nothing of the weights.
    save_file({f"layer{k}.weight": torch.zeros(64, 32) for k in (0, 2)}, tmp_path / "b/model-0.safetensors")
    done = mcx("l2", *indices, "--output", output)
    assert (done.code, f"'{output}' exists" in done.err) == (5, True)


def test_values_beyond_float64s_squares_are_not_called_nan(mcx: Callable, tmp_path: Path) -> None:
    for name, value in (("a", 1e20), ("b", -1e20)):
        torch.save({"w": torch.full((4,), value)}, tmp_path / f"{name}.pt")
    found = json.loads(mcx("l2", tmp_path / "a.pt", tmp_path / "b.pt", "--json").out)
    assert found["total_l2"] == pytest.approx(4e20, rel=1e-6)


def test_networks_that_do_not_fit_the_model_are_named(mcx: Callable, networks: Path, run: Path) -> None:
    done = mcx("l2", pair(networks)[0], run / "checkpoint-1.pt", "--metric", "functional")
    assert (done.code, "different networks" in done.err) == (3, True)


def test_the_sums_that_all_pairs_need_are_few() -> None:
    """Fifty networks: no subtraction for 1,225 pairs that are alike far from each other."""
    torch.manual_seed(0)
    networks = [{"w": torch.randn(1000)} for _ in range(50)]
    pairs = [(i, j) for i in range(50) for j in range(i + 1, 50)]
    subtracted = 0
    original = sums._subtracted

    def counted(part: Tensor, some: list) -> Tensor:
        nonlocal subtracted
        subtracted += len(some)
        return original(part, some)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "_subtracted", counted)
        sums.among(networks, pairs)
    assert subtracted == 0
