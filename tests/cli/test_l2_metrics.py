"""Further metrics of `mcx l2`: in function, weighted by Fisher information, and with swaps undone."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from modeconn_cli.engine import datasets
from modeconn_cli.engine.networks import models as models_
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.settings.shared import DataSettings


def test_all_metrics_come_from_one_call(mcx: Callable, ends: list[Path]) -> None:
    words = ("--metric", "l2,cosine,fisher,functional", "--fisher-samples", "50", "--json")
    done = mcx("l2", *ends, *words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    states = [torch.load(path, weights_only=True)["model_state"].values() for path in ends]
    a, b = (torch.cat([tensor.double().flatten() for tensor in state]) for state in states)
    assert found["total_l2"] == pytest.approx(float((a - b).norm()), rel=1e-12)
    assert found["cosine_distance"] == pytest.approx(1 - float(F.cosine_similarity(a, b, 0)), rel=1e-9)
    layers = found["all_layer_distances"].values()
    assert found["fisher_distance"] ** 2 == pytest.approx(sum(row["fisher_distance"] ** 2 for row in layers))
    assert found["data"]["fisher"] == {
        "kind": "true", "seed": 0, "dataset": "digits", "split": "all-train", "samples": 50, "label_noise": 0.0,
        "transform": {"name": "half", "mean": [0.5], "std": [0.5], "said": "transform half"},
    }  # fmt: skip
    functional = found["data"]["functional"]
    assert (functional["dataset"], functional["split"], functional["samples"]) == ("digits", "test", 360)
    measured = ("disagreement", "kl", "logit_distance")
    assert set(found["functional"]) == {*measured, *(f"{name}_stderr" for name in measured), "samples"}
    assert 0 < found["functional"]["disagreement"] <= 1


def test_distances_in_function_and_their_standard_errors_are_those_of_the_definitions(
    mcx: Callable, ends: list[Path]
) -> None:
    """Every sample and every class by itself in float64: nothing is drawn, and no seed decides."""
    words = ("--metric", "fisher,functional", "--max-samples", "60", "--split", "all-train", "--json")
    found = json.loads(mcx("l2", *ends, *words).out)
    assert (
        found["fisher_distance"] == json.loads(mcx("l2", *ends, *words, "--seed", "5").out)["fisher_distance"]
    )
    data = datasets.load(DataSettings(dataset="digits", max_samples=60), torch.device("cpu"))
    images = (data.split("all-train").images.double() / 255 - 0.5) / 0.5
    models = []
    for end in ends:
        model = models_.build(Architecture("cnn", 10, (1, 8, 8), {"width": 4})).double().eval()
        model.load_state_dict(torch.load(end, weights_only=True)["model_state"])
        models.append(model)
    gaps = [(a - b).detach().square() for a, b in zip(*(m.parameters() for m in models), strict=True)]
    q = torch.zeros(2, len(images), dtype=torch.float64)
    for k, model in enumerate(models):
        for n, image in enumerate(images):
            log_p = model(image[None]).log_softmax(1)[0]
            for c in range(10):
                gradients = torch.autograd.grad(log_p[c], list(model.parameters()), retain_graph=True)
                squared = sum(float((g.square() * gap).sum()) for g, gap in zip(gradients, gaps, strict=True))
                q[k, n] += float(log_p[c].detach().exp()) * squared
    q = q.mean(0)
    distance = float(q.mean().sqrt())
    assert found["fisher_distance"] == pytest.approx(distance, rel=1e-5)
    exact = float(q.std()) / (2 * distance * len(q) ** 0.5)
    assert 0.6 < found["fisher_distance_stderr"] / exact < 1.6  # of twenty blocks of samples
    with torch.no_grad():
        p, other = (model(images).log_softmax(1) for model in models)
    for name, values in {
        "disagreement": (p.argmax(1) != other.argmax(1)).double(), "kl": (p.exp() * (p - other)).sum(1),
    }.items():  # fmt: skip
        assert found["functional"][name] == pytest.approx(float(values.mean()), rel=1e-4)
        error = found["functional"][f"{name}_stderr"]
        assert error == pytest.approx(float(values.std()) / 60**0.5, rel=1e-4)
    shown = mcx("l2", *ends, *words[:-1]).out
    assert f"{distance:.4f}"[:-1] in shown
    assert shown.count(" ± ") == 4


def test_what_was_not_asked_for_is_not_shown(mcx: Callable, ends: list[Path]) -> None:
    done = mcx("l2", *ends, "--metric", "cosine")
    assert done.out.startswith("Further distances:\n  Cosine distance: ")
    assert "L2 Distance Statistics" not in done.out
    assert "Fisher" not in done.out


def test_layers_can_be_sorted_by_their_fisher_distance(mcx: Callable, ends: list[Path]) -> None:
    words = ("--metric", "l2,fisher", "--fisher-samples", "50", "--sort-by", "fisher_distance")
    done = mcx("l2", *ends, *words, "--json")
    values = [row["fisher_distance"] for row in json.loads(done.out)["top_10_layers"]]
    assert values == sorted(values, reverse=True)
    assert "Top 10 layers by Fisher distance:" in mcx("l2", *ends, *words).out
    done = mcx("l2", *ends, "--sort-by", "fisher_distance")
    assert (done.code, "--sort-by fisher_distance needs that metric" in done.err) == (2, True)


def test_the_fisher_distance_does_not_depend_on_the_batch(mcx: Callable, ends: list[Path]) -> None:
    words = ("--metric", "fisher", "--fisher-samples", "40", "--json")
    one, other = (json.loads(mcx("l2", *ends, *words, "--batch-size", size).out) for size in ("40", "7"))
    assert one["fisher_distance"] == pytest.approx(other["fisher_distance"], rel=1e-5)


def test_infinite_weights_have_no_angle(mcx: Callable, tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", math.inf)):
        torch.save({"w": torch.tensor([value, 2.0]), "v": torch.tensor([value])}, tmp_path / f"{name}.pt")
    words = ("--allow-nonfinite", "--metric", "l2,cosine", "--json")
    found = json.loads(mcx("l2", tmp_path / "a.pt", tmp_path / "b.pt", *words).out)
    assert (found["total_l2"], found["cosine_distance"]) == (None, None)


def test_networks_that_do_not_fit_the_model_are_named(mcx: Callable, ends: list[Path], mlps: Path) -> None:
    done = mcx("l2", ends[0], mlps / "seed0/checkpoint-1.pt", "--metric", "functional")
    assert (done.code, "different networks" in done.err) == (3, True)


def test_networks_of_other_data_are_named(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    words = ("--model", "cnn", "--model-arg", "width=4", "--dataset", "digits", "--epochs", "1")
    other = ("--max-samples", "60", "--mean", "3", "--std", "0.3", "--output-dir", tmp_path / "rn")
    assert mcx("train", *words, *other).code == 0
    done = mcx("l2", ends[0], tmp_path / "rn/seed0/checkpoint-1.pt", "--metric", "functional")
    assert (done.code, "was trained with mean [3.0], all are measured with []" in done.err) == (0, True)


def test_the_first_that_knows_its_data_speaks_for_all(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    state = torch.load(ends[0], weights_only=True)["model_state"]
    torch.save(state, tmp_path / "raw.pt")
    words = ("--metric", "functional", "--json")
    one, other = (json.loads(mcx("l2", *pair, *words).out) for pair in (
        (tmp_path / "raw.pt", ends[0]), (ends[0], tmp_path / "raw.pt"),
    ))  # fmt: skip
    assert one["functional"] == other["functional"]
    assert one["functional"]["disagreement"] == 0.0


def test_other_architectures_keep_their_own_distances(mcx: Callable, networks: Path, mlps: Path) -> None:
    folders = (("c", networks), ("m", mlps))
    paths = [f"{name}{k}={folder}/seed{k}/checkpoint-4.pt" for name, folder in folders for k in (0, 1)]
    done = mcx("l2", *paths, "--pairs", "all", "--metric", "l2,functional", "--json")
    rows = {row["pair"]: row for row in json.loads(done.out)["pairs"]}
    assert done.code == 3
    for pair in ("c0-c1", "m0-m1"):
        assert rows[pair]["status"] == "ok"
        assert rows[pair]["total_l2"] > 0
        assert 0 <= rows[pair]["disagreement"] <= 1
    assert "different networks" in rows["c0-m1"]["status"]


def test_a_swapped_network_is_far_away_and_answers_the_same(
    mcx: Callable, ends: list[Path], swaps: list[Path]
) -> None:
    words = ("--metric", "l2,functional", "--modulo-permutation", "--json")
    done = mcx("l2", ends[0], swaps[0], *words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["total_l2"] > 0.1
    assert (found["functional"]["disagreement"], found["functional"]["kl"]) == (
        0.0,
        pytest.approx(0, abs=1e-9),
    )
    assert found["modulo_permutation"]["total_l2"] == 0.0
    assert found["modulo_permutation"]["metadata"] == [str(swaps[0].with_name("s1_metadata.json"))]
    reverse = json.loads(mcx("l2", swaps[0], ends[0], *words).out)
    assert reverse["modulo_permutation"]["total_l2"] == 0.0


def test_no_known_swap_is_an_error(mcx: Callable, ends: list[Path]) -> None:
    done = mcx("l2", *ends, "--modulo-permutation")
    assert (done.code, "no swap is known" in done.err) == (3, True)


def undone(mcx: Callable, a: Path, b: Path) -> float:
    done = mcx("l2", a, b, "--modulo-permutation", "--json")
    assert done.code == 0, done.err
    return float(json.loads(done.out)["modulo_permutation"]["total_l2"])


def test_swaps_are_undone_back_to_the_common_original(
    mcx: Callable, ends: list[Path], swaps: list[Path]
) -> None:
    assert undone(mcx, *swaps) == 0.0
    assert undone(mcx, ends[0], swaps[1]) == 0.0
    assert undone(mcx, swaps[1], swaps[0]) == 0.0


def test_networks_without_a_common_original_are_refused(
    mcx: Callable, networks: Path, swaps: list[Path]
) -> None:
    done = mcx("l2", networks / "seed1/checkpoint-4.pt", swaps[1], "--modulo-permutation")
    assert (done.code, "were not swapped from one network" in done.err) == (3, True)


def test_metadata_of_another_file_is_refused(
    mcx: Callable, networks: Path, swaps: list[Path], tmp_path: Path
) -> None:
    other = networks / "seed1/checkpoint-4.pt"
    shutil.copy(other, tmp_path / "st.pt")
    shutil.copy(tmp_path / "s1_metadata.json", tmp_path / "st_metadata.json")
    done = mcx("l2", other, tmp_path / "st.pt", "--modulo-permutation")
    assert (done.code, "is the metadata of another file" in done.err) == (3, True)


def test_metadata_beside_what_a_link_leads_to_counts(
    mcx: Callable, ends: list[Path], swaps: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "link.pt").symlink_to(swaps[0])
    assert undone(mcx, ends[0], tmp_path / "link.pt") == 0.0


def test_changed_metadata_is_another_input(
    mcx: Callable, ends: list[Path], swaps: list[Path], tmp_path: Path
) -> None:
    words = ("l2", ends[0], swaps[0], "--modulo-permutation", "--output", tmp_path / "m.json")
    assert mcx(*words).code == 0
    path = tmp_path / "s1_metadata.json"
    document = json.loads(path.read_text())
    document["neuron_pairs"] = document["neuron_pairs"][:1]
    path.write_text(json.dumps(document))
    done = mcx(*words)
    assert (done.code, "m.json' exists" in done.err) == (5, True)


def test_a_broken_swap_spoils_its_own_pairs_only(
    mcx: Callable, ends: list[Path], swaps: list[Path], tmp_path: Path
) -> None:
    shutil.copy(ends[0], tmp_path / "brk.pt")
    (tmp_path / "brk_metadata.json").write_text("{")
    words = ("--modulo-permutation", "--pairs", "all", "--json")
    done = mcx("l2", f"a={ends[0]}", swaps[0], tmp_path / "brk.pt", *words)
    rows = {row["pair"]: row for row in json.loads(done.out)["pairs"]}
    assert done.code == 3
    assert (rows["a-s1"]["status"], rows["a-s1"]["modulo_permutation"]) == ("ok", 0.0)
    assert rows["a-brk"]["total_l2"] == 0.0
    assert "brk_metadata.json" in rows["a-brk"]["status"]
