"""`mcx merge`: against averages without mcx, its members' own figures, and what cannot be averaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.weights import is_continuous
from modeconn_cli.engine.symmetry.average import average


def state(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(path).state


@pytest.fixture
def ends(mlps: Path) -> list[Path]:
    """Two networks without batch norm."""
    return [mlps / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]


def test_an_average_is_what_float64_says(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    found = json.loads(
        mcx("merge", f"a={ends[0]}", f"b={ends[1]}", "--weights", "3,1", "--output", out, "--json").out
    )
    first, second = map(state, ends)
    for name, tensor in state(out).items():
        assert torch.equal(tensor, (0.75 * first[name].double() + 0.25 * second[name].double()).float())
    assert [each["share"] for each in found["members"]] == [0.75, 0.25]


def test_the_average_has_the_figures_of_the_middle_of_the_line(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.pt"
    found = json.loads(mcx("merge", f"a={ends[0]}", f"b={ends[1]}", "--output", out, "--json").out)
    line = json.loads(mcx("lmc", "interpolate", *ends, "--num-alphas", "3", "--json").out)
    losses = [*(each["loss"] for each in found["members"]), found["merged"]["loss"]]
    series = line["statistics"]["loss_test"]
    assert losses[2] == pytest.approx(max(losses)), "the middle of this line is its top"
    assert [losses[0], losses[1], losses[2]] == pytest.approx(
        [series["start"], series["end"], series["max"]], rel=1e-5
    )


def test_copies_in_one_frame_are_averaged_to_themselves(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    copies = []
    for seed in (1, 2):
        copies.append(tmp_path / f"copy{seed}.pt")
        assert mcx("swap", ends[0], "--random", "--seed", str(seed), "--output", copies[-1]).code == 0
    words = [
        "merge",
        f"a={ends[0]}",
        *copies,
        "--align",
        "weights",
        "--output",
        tmp_path / "out.pt",
        "--json",
    ]
    found = json.loads(mcx(*words).out)
    original = state(ends[0])
    assert all(torch.equal(tensor, original[name]) for name, tensor in state(tmp_path / "out.pt").items())
    losses = [each["loss"] for each in found["members"]]
    assert losses == pytest.approx([found["merged"]["loss"]] * 3, rel=1e-6)


def test_statistics_are_recomputed_or_averaged(mcx: Callable, tmp_path: Path) -> None:
    network = ["train", "--model", "cnn", "--model-arg", "width=2,norm=batch", "--dataset", "digits"]
    more = ["--epochs", "1", "--max-samples", "300", "--seeds", "0,1", "--output-dir", tmp_path]
    assert mcx(*network, *more).code == 0
    ends = [tmp_path / f"seed{k}/checkpoint-1.pt" for k in (0, 1)]
    words = ["merge", f"a={ends[0]}", f"b={ends[1]}", "--max-samples", "300"]
    out = {}
    for bn in ("recompute", "average"):
        assert mcx(*words, "--bn", bn, "--output", tmp_path / f"{bn}.pt").code == 0
        out[bn] = state(tmp_path / f"{bn}.pt")
    first, second = map(state, ends)
    learnt = [name for name in first if "running" not in name and is_continuous(first[name])]
    assert all(torch.equal(out["recompute"][name], out["average"][name]) for name in learnt)
    running = [name for name in first if "running" in name]
    assert running
    for name in running:
        mean = ((first[name].double() + second[name].double()) / 2).float()
        assert torch.equal(out["average"][name], mean)
        assert not torch.equal(out["recompute"][name], mean)


def test_a_greedy_soup_is_no_worse_on_validation_images_than_its_best_member(
    mcx: Callable, mlps: Path, tmp_path: Path
) -> None:
    members = [f"e{epoch}={mlps}/seed0/checkpoint-{epoch}.pt" for epoch in range(5)]
    words = [
        "merge",
        *members,
        "--greedy",
        "--val-size",
        "100",
        "--no-use-test",
        "--output",
        tmp_path / "out.pt",
    ]
    found = json.loads(mcx(*words, "--json").out)
    assert found["held_out"] == "val"
    assert found["merged"]["accuracy"] >= max(each["accuracy"] for each in found["members"])
    shares = [each["share"] for each in found["members"]]
    assert sum(shares) == pytest.approx(1)
    assert len({share for share in shares if share}) == 1


def test_the_same_command_is_complete_and_another_is_refused(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    words = ["merge", f"a={ends[0]}", f"b={ends[1]}", "--output", tmp_path / "out.pt"]
    assert mcx(*words).code == 0
    before = (tmp_path / "out.pt").read_bytes()
    again = mcx(*words)
    assert (again.code, "already complete" in again.err) == (0, True)
    assert mcx(*words, "--weights", "1,2").code == 5
    assert (tmp_path / "out.pt").read_bytes() == before


WRONG = {
    "one network": (["A"], 2),
    "weights of three": (["A", "b=B", "--weights", "1,1,1"], 2),
    "no weight": (["A", "b=B", "--weights", "0,0"], 2),
    "negative": (["A", "b=B", "--weights=-1,2"], 2),
    "greedy without images": (["A", "b=B", "--greedy"], 2),
    "greedy with weights": (["A", "b=B", "--greedy", "--val-size", "50", "--weights", "1,2"], 2),
    "another architecture": (["A", "b=C"], 3),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(
    mcx: Callable, ends: list[Path], networks: Path, tmp_path: Path, name: str
) -> None:
    words, code = WRONG[name]
    places = {"A": str(ends[0]), "b=B": f"b={ends[1]}", "b=C": f"b={networks}/seed0/checkpoint-4.pt"}
    done = mcx("merge", *(places.get(word, word) for word in words), "--output", tmp_path / "out.pt")
    assert (done.code, "Traceback" in done.err) == (code, False), done.err
    assert not (tmp_path / "out.pt").exists()


def test_huge_weights_are_shares_too(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    words = [
        "merge",
        f"a={ends[0]}",
        f"b={ends[1]}",
        "--weights",
        "1e308,1e308",
        "--output",
        tmp_path / "out.pt",
    ]
    found = json.loads(mcx(*words, "--json").out)
    assert [each["share"] for each in found["members"]] == [0.5, 0.5]


def test_an_average_that_was_changed_is_not_called_complete(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.pt"
    words = ["merge", f"a={ends[0]}", f"b={ends[1]}", "--output", out]
    assert mcx(*words).code == 0
    content = torch.load(out, weights_only=True)
    next(iter(content["model_state"].values())).zero_()
    with out.open("wb") as stream:
        torch.save(content, stream)
    done = mcx(*words)
    assert (done.code, done.out) == (5, "")
    assert "was changed after it had been made" in done.err


def test_whole_numbers_that_differ_are_refused_and_counters_are_not() -> None:
    one = {"w": torch.ones(2), "index": torch.tensor([0, 1]), "norm.num_batches_tracked": torch.tensor(3)}
    other = {**one, "w": torch.zeros(2, dtype=torch.float64), "norm.num_batches_tracked": torch.tensor(5)}
    found = average([one, other], [0.5, 0.5])
    assert (found["w"].dtype, found["w"].tolist()) == (torch.float64, [0.5, 0.5])
    with pytest.raises(InputError, match="'index', whose whole numbers cannot be averaged"):
        average([one, {**other, "index": torch.tensor([1, 0])}], [0.5, 0.5])
