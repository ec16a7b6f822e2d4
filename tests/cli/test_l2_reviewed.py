"""Distances that a careful reader would not believe: other data, other originals, other files than they say."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modeconn_cli.engine.networks import checkpoints, sums


@pytest.fixture
def first(networks: Path) -> Path:
    return networks / "seed0/checkpoint-4.pt"


@pytest.fixture
def swaps(mcx: Callable, first: Path, tmp_path: Path) -> list[Path]:
    """A swap of a network, and the mirror of that."""
    out = [tmp_path / "s1.pt", tmp_path / "s2.pt"]
    assert mcx("swap", "--checkpoint", first, "--output", out[0], "--num-swaps", "2").code == 0
    assert mcx("swap", "--checkpoint", out[0], "--output", out[1], "--mirror").code == 0
    return out


def undone(mcx: Callable, a: Path, b: Path) -> float:
    done = mcx("l2", a, b, "--modulo-permutation", "--json")
    assert done.code == 0, done.err
    return float(json.loads(done.out)["modulo_permutation"]["total_l2"])


def test_swaps_are_undone_back_to_the_common_original(mcx: Callable, first: Path, swaps: list[Path]) -> None:
    assert undone(mcx, *swaps) == 0.0
    assert undone(mcx, first, swaps[1]) == 0.0
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
    mcx: Callable, first: Path, swaps: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "link.pt").symlink_to(swaps[0])
    assert undone(mcx, first, tmp_path / "link.pt") == 0.0


def test_changed_metadata_is_another_input(
    mcx: Callable, first: Path, swaps: list[Path], tmp_path: Path
) -> None:
    words = ("l2", first, swaps[0], "--modulo-permutation", "--output", tmp_path / "m.json")
    assert mcx(*words).code == 0
    path = tmp_path / "s1_metadata.json"
    document = json.loads(path.read_text())
    document["neuron_pairs"] = document["neuron_pairs"][:1]
    path.write_text(json.dumps(document))
    done = mcx(*words)
    assert (done.code, "m.json' exists" in done.err) == (5, True)


def test_a_broken_swap_spoils_its_own_pairs_only(
    mcx: Callable, first: Path, swaps: list[Path], tmp_path: Path
) -> None:
    shutil.copy(first, tmp_path / "brk.pt")
    (tmp_path / "brk_metadata.json").write_text("{")
    words = ("--modulo-permutation", "--pairs", "all", "--json")
    done = mcx("l2", f"a={first}", swaps[0], tmp_path / "brk.pt", *words)
    rows = {row["pair"]: row for row in json.loads(done.out)["pairs"]}
    assert done.code == 3
    assert (rows["a-s1"]["status"], rows["a-s1"]["modulo_permutation"]) == ("ok", 0.0)
    assert rows["a-brk"]["total_l2"] == 0.0
    assert "brk_metadata.json" in rows["a-brk"]["status"]


def test_networks_of_other_data_are_named(mcx: Callable, first: Path, tmp_path: Path) -> None:
    words = (
        "--model",
        "cnn",
        "--model-arg",
        "width=4",
        "--dataset",
        "digits",
        "--epochs",
        "1",
        "--max-samples",
        "60",
    )
    assert mcx("train", *words, "--mean", "3", "--std", "0.3", "--output-dir", tmp_path / "rn").code == 0
    done = mcx("l2", first, tmp_path / "rn/seed0/checkpoint-1.pt", "--metric", "functional")
    assert (done.code, "was trained with mean [3.0], all are measured with []" in done.err) == (0, True)


def test_the_first_that_knows_its_data_speaks_for_all(mcx: Callable, first: Path, tmp_path: Path) -> None:
    state = torch.load(first, weights_only=True)["model_state"]
    torch.save(state, tmp_path / "raw.pt")
    words = ("--metric", "functional", "--json")
    one, other = (json.loads(mcx("l2", *pair, *words).out) for pair in (
        (tmp_path / "raw.pt", first), (first, tmp_path / "raw.pt"),
    ))  # fmt: skip
    assert one["functional"] == other["functional"]
    assert one["functional"]["disagreement"] == 0.0


def test_other_architectures_keep_their_own_distances(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    words = (
        "--model",
        "mlp",
        "--dataset",
        "digits",
        "--epochs",
        "1",
        "--max-samples",
        "60",
        "--seeds",
        "0,1",
    )
    assert mcx("train", *words, "--output-dir", tmp_path / "rb").code == 0
    paths = [f"{name}{k}={folder}/seed{k}/checkpoint-{epoch}.pt"
             for name, folder, epoch in (("c", networks, 4), ("m", tmp_path / "rb", 1)) for k in (0, 1)]  # fmt: skip
    done = mcx("l2", *paths, "--pairs", "all", "--metric", "l2,functional", "--json")
    rows = {row["pair"]: row for row in json.loads(done.out)["pairs"]}
    assert done.code == 3
    for pair in ("c0-c1", "m0-m1"):
        assert rows[pair]["status"] == "ok"
        assert rows[pair]["total_l2"] > 0
        assert 0 <= rows[pair]["disagreement"] <= 1
    assert "different networks" in rows["c0-m1"]["status"]


def test_what_has_a_direction_stands_above_the_diagonal(
    mcx: Callable, networks: Path, tmp_path: Path
) -> None:
    words = ("--pairs", "all", "--metric", "l2,functional", "--output-dir", tmp_path / "out")
    done = mcx("l2", networks / "seed0", networks / "seed1", *words)
    assert (done.code, "a trajectory is of one run" in done.err) == (0, True)
    with np.load(tmp_path / "out/matrix.npz") as found:
        for name in ("relative", "kl"):
            assert np.isfinite(found[name][np.triu_indices(4)]).all()
            assert np.isnan(found[name][np.tril_indices(4, -1)]).all()
        assert (found["total_l2"] == found["total_l2"].T).all()


def test_two_pairs_of_one_name_are_refused(mcx: Callable, networks: Path, first: Path) -> None:
    paths = [networks / f"seed{k}/checkpoint-{epoch}.pt" for k in (0, 1) for epoch in (0, 4)]
    words = [f"{label}={path}" for label, path in zip(("a", "b-c", "a-b", "c"), paths, strict=True)]
    done = mcx("l2", *words, "--pairs", "all")
    assert (done.code, "two pairs are called 'a-b-c'" in done.err) == (2, True)


def test_summaries_of_others_are_kept(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.txt").write_text("precious")
    words = ("l2", networks / "seed0", "--output-dir", tmp_path)
    done = mcx(*words)
    assert (done.code, "summary.txt' exists" in done.err) == (5, True)
    assert (tmp_path / "summary.txt").read_text() == "precious"
    assert mcx(*words, "--overwrite").code == 0
    assert mcx(*words).code == 0, "its own summaries are no others'"


def test_a_file_that_is_replaced_meanwhile_gives_no_record(
    mcx: Callable, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for k, path in enumerate(paths):
        shutil.copy(networks / f"seed{k}/checkpoint-4.pt", path)
    original = sums.among

    def replaced(*words: object) -> object:
        shutil.copy(networks / "seed0/checkpoint-0.pt", tmp_path / "new")
        (tmp_path / "new").rename(paths[1])
        return original(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(sums, "among", replaced)
    done = mcx("l2", *paths, "--output", tmp_path / "x.json")
    assert (done.code, "b.pt' was replaced while it was measured" in done.err) == (3, True)
    assert not (tmp_path / "x.json").exists()


def test_nothing_is_known_of_broken_epochs(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    shutil.copy(networks / "seed0/checkpoint-0.pt", tmp_path / "checkpoint-0.pt")
    (tmp_path / "checkpoint-1.pt").write_bytes(b"PK\x03\x04")
    shutil.copy(networks / "seed0/checkpoint-4.pt", tmp_path / "checkpoint-4.pt")
    done = mcx("l2", tmp_path, "--json")
    rows = json.loads(done.out)["trajectory"]
    assert done.code == 3
    assert (rows[0]["from_start"], rows[2]["from_end"]) == (0.0, 0.0)
    assert rows[2]["from_start"] > 0
    assert {rows[1][name] for name in ("from_start", "from_end", "step", "length", "relative")} == {None}
    (tmp_path / "checkpoint-0.pt").write_bytes(b"PK\x03\x04")
    rows = json.loads(mcx("l2", tmp_path, "--json").out)["trajectory"]
    assert {rows[0][name] for name in ("from_start", "from_end", "length", "relative")} == {None}


def test_a_pattern_takes_a_step(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    for epoch in range(5):
        shutil.copy(networks / "seed0/checkpoint-4.pt", tmp_path / f"checkpoint-{epoch}.pt")
    found = json.loads(mcx("l2", f"{tmp_path}/checkpoint-*.pt", "--step", "2", "--json").out)
    assert [row["epoch"] for row in found["trajectory"]] == [0, 2, 4]


def test_infinite_weights_have_no_angle(mcx: Callable, tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", math.inf)):
        torch.save({"w": torch.tensor([value, 2.0]), "v": torch.tensor([value])}, tmp_path / f"{name}.pt")
    words = ("--allow-nonfinite", "--metric", "l2,cosine", "--json")
    found = json.loads(mcx("l2", tmp_path / "a.pt", tmp_path / "b.pt", *words).out)
    assert (found["total_l2"], found["cosine_distance"]) == (None, None)


def test_an_index_that_names_what_no_file_holds_is_refused(mcx: Callable, tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "m.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "m.safetensors", "ghost": "m.safetensors"}}))
    done = mcx("l2", index, index)
    assert (done.code, "names 'ghost', which none of its files holds" in done.err) == (3, True)


def test_pieces_of_one_tensor_are_no_second_names(tmp_path: Path) -> None:
    weight = torch.randn(8)
    torch.save({"a": weight, "piece": weight[:4], "again": weight}, tmp_path / "x.pt")
    assert list(checkpoints.read(tmp_path / "x.pt").parameters()) == ["a", "piece"]
