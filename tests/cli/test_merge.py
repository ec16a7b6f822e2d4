"""`mcx merge`: against averages without mcx, its members' own figures, and what cannot be averaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeconn_cli.engine.datasets import load
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.weights import is_continuous
from modeconn_cli.engine.settings.shared import DataSettings
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


def test_an_average_says_what_it_is_of_and_nothing_of_a_training(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.pt"
    assert mcx("merge", f"a={ends[0]}", f"b={ends[1]}", "--weights", "3,1", "--output", out).code == 0
    member, about = (checkpoints.read(path).about for path in (ends[0], out))
    assert (about.seed, about.settings, member.seed is None) == (None, None, False)
    assert (about.merged_from, about.wd) == ({"a": 0.75, "b": 0.25}, member.wd)
    assert (about.data, about.model, about.buffers) == (member.data, member.model, member.buffers)
    done = mcx("lmc", "interpolate", out, ends[0], "--num-alphas", "3", "--json")
    assert done.code == 0, done.err


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


def test_two_are_averaged_by_activations_as_align_has_them(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    moved = ["align", ends[1], "--to", ends[0], "--method", "activations", "--output", tmp_path / "moved.pt"]
    assert mcx(*moved).code == 0
    words = [
        "merge",
        f"a={ends[0]}",
        f"b={ends[1]}",
        "--align",
        "activations",
        "--output",
        tmp_path / "out.pt",
    ]
    done = mcx(*words, "--json")
    assert (done.code, json.loads(done.out)["align"]) == (0, "activations")
    assert (
        mcx("merge", f"a={ends[0]}", f"b={tmp_path}/moved.pt", "--output", tmp_path / "by_hand.pt").code == 0
    )
    by_hand = state(tmp_path / "by_hand.pt")
    assert all(torch.equal(tensor, by_hand[name]) for name, tensor in state(tmp_path / "out.pt").items())
    assert "already complete" in mcx(*words).err


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


OWN = """
from torch import nn


def net(norm=0):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=not norm), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.GELU(), nn.Flatten(),
        nn.Linear(216, 12), nn.Tanh(), nn.Linear(12, 10),
    )
"""


@pytest.mark.parametrize("norm", ["0", "1"])
def test_a_repaired_average_of_own_networks_has_the_weighted_moments_of_its_members(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("ownmerged.py").write_text(OWN)
    space: dict[str, Any] = {}
    exec(OWN, space)
    words = [
        "--model",
        "ownmerged:net",
        "--model-arg",
        f"norm={norm}",
        "--dataset",
        "digits",
        "--max-samples",
        "300",
    ]
    assert mcx("train", *words, "--epochs", "2", "--seeds", "0,1,2", "--output-dir", "runs").code == 0
    members = [f"m{k}=runs/seed{k}/checkpoint-2.pt" for k in range(3)]
    merge = ["merge", *members, "--weights", "1,2,1", *words[:2], "--max-samples", "300"]
    assert mcx(*merge, "--bn", "average", "--output", "plain.pt").code == 0
    done = mcx(*merge, "--bn", "repair", "--align", "weights", "--output", "out.pt", "--json")
    assert done.code == 0, done.err
    used = json.loads(done.out)["bn"]
    assert (used["policy"], used["samples"], used["layers"]) == ("repair", 300, 2)
    frame = ["align", *members, "--cycle", *words[:2], "--input-shape", "1,8,8", "--output-dir", "frame"]
    assert mcx(*frame).code == 0
    data = load(DataSettings(dataset="digits", max_samples=300), torch.device("cpu"))
    images = torch.cat([batch.images for batch in data.fit.batches(128)])

    def moments(path: str) -> list[torch.Tensor]:
        """Mean and deviation of the two hidden pre-activations by channel: all images at once, in float64."""
        model = space["net"](int(norm)).double().eval()
        model.load_state_dict(state(Path(path)))
        found = []
        for places in (model[:2], model[:5]):
            rows = places(images.double()).transpose(0, 1).flatten(1)
            found += [rows.mean(1), rows.std(1, unbiased=False)]
        return found

    with torch.no_grad():
        own = [moments(f"frame/m{k}.pt") for k in range(3)]
        for found, *each in zip(moments("out.pt"), *own, strict=True):
            torch.testing.assert_close(
                found, 0.25 * each[0] + 0.5 * each[1] + 0.25 * each[2], rtol=1e-5, atol=1e-5
            )
    # The frame of the plain average is another one, and so is the average.
    assert not torch.equal(state(Path("plain.pt"))["4.bias"], state(Path("out.pt"))["4.bias"])


def test_copies_of_an_own_network_are_averaged_to_themselves_by_activations(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("ownmerged.py").write_text(OWN)
    own = ["--model", "ownmerged:net"]  # whose units are never constant
    words = [
        "train",
        *own,
        "--dataset",
        "digits",
        "--max-samples",
        "300",
        "--epochs",
        "2",
        "--output-dir",
        "run",
    ]
    assert mcx(*words).code == 0
    members = ["run/seed0/checkpoint-2.pt"]
    for seed in ("1", "2"):
        members.append(f"copy{seed}.pt")
        swap = ["swap", members[0], *own, "--random", "--seed", seed, "--output", members[-1]]
        assert mcx(*swap).code == 0
    done = mcx("merge", *members, *own, "--align", "activations", "--output", "out.pt")
    assert done.code == 0, done.err
    original, merged = state(Path(members[0])), state(Path("out.pt"))
    assert all(torch.equal(tensor, original[name]) for name, tensor in merged.items())


def test_a_repaired_average_of_two_is_the_repaired_middle_of_their_line(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    words = ["merge", f"a={ends[0]}", f"b={ends[1]}", "--weights", "3,1", "--bn", "repair"]
    assert mcx(*words, "--output", tmp_path / "out.pt").code == 0
    line = [
        "curve",
        "extract",
        "--endpoint0",
        ends[0],
        "--endpoint1",
        ends[1],
        "--t",
        "0.25",
        "--bn",
        "repair",
    ]
    assert mcx(*line, "--output", tmp_path / "point.pt").code == 0
    merged, point = state(tmp_path / "out.pt"), state(tmp_path / "point.pt")
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, point[name], rtol=1e-4, atol=1e-5)
    assert "already complete" in mcx(*words, "--output", tmp_path / "out.pt").err
    assert mcx(*words[:-2], "--output", tmp_path / "out.pt").code == 5  # of networks without batch norm too


def test_a_repaired_average_of_one_network_is_that_network(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    words = ["merge", f"a={ends[0]}", f"b={ends[1]}", "--weights", "0,1", "--bn", "repair"]
    assert mcx(*words, "--output", tmp_path / "out.pt").code == 0
    alone = state(ends[1])
    assert all(torch.equal(tensor, alone[name]) for name, tensor in state(tmp_path / "out.pt").items())


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_layers_that_cannot_be_repaired_in_a_checkpoint_are_named_before_anything_is_done(
    mcx: Callable, tmp_path: Path, more: list[str]
) -> None:
    words = ["train", "--model", "preresnet8", "--dataset", "digits", "--epochs", "0", "--seeds", "0,1"]
    assert mcx(*words, "--max-samples", "50", "--output-dir", tmp_path).code == 0
    members = [f"m{k}={tmp_path}/seed{k}/checkpoint-0.pt" for k in (0, 1)]
    done = mcx("merge", *members, "--bn", "repair", "--output", tmp_path / "out.pt", *more)
    assert (done.code, (tmp_path / "out.pt").exists()) == (3, False)
    assert "can hold the shift of conv1, layer1.0.conv2" in done.err
    assert "hint: --bn recompute" in done.err


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
