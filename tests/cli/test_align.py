"""`mcx align` as its user sees it: files, figures, refusals, and what the other commands make of a permutation."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeconn_cli.engine.commands.align import progress
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.symmetry import match


def state(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(path).state


def shuffled(mcx: Callable, network: Path, tmp_path: Path) -> Path:
    path = tmp_path / "shuffled.pt"
    assert mcx("swap", network, "--random", "--output", path).code == 0
    return path


def test_a_shuffled_network_comes_back(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    moving, out = shuffled(mcx, ends[0], tmp_path), tmp_path / "back.pt"
    found = json.loads(mcx("align", moving, "--to", ends[0], "--output", out, "--json").out)
    (one,) = found["aligned"].values()
    original = state(ends[0])
    assert all(torch.equal(tensor, original[name]) for name, tensor in state(out).items())
    assert one["after"] == {"total_l2": 0.0, "relative_total": 0.0}
    assert one["before"]["total_l2"] > 1
    assert {group["name"] for group in one["groups"]} == set(np.load(tmp_path / "back_permutation.npz").files)
    assert json.loads((tmp_path / "back_alignment.json").read_text())["objective"] == one["objective"]


def test_the_momentum_moves_along(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    moving, out = shuffled(mcx, ends[0], tmp_path), tmp_path / "back.pt"
    mcx("align", moving, "--to", ends[0], "--output", out)
    before, after = (checkpoints.read(path).optimizer_state for path in (ends[0], out))
    assert before is not None
    assert after is not None
    for key, entry in before["state"].items():
        assert torch.equal(after["state"][key]["momentum_buffer"], entry["momentum_buffer"])


def test_two_seeds_come_closer_and_every_command_takes_the_permutation(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    out, orders = tmp_path / "aligned.pt", tmp_path / "aligned_permutation.npz"
    (one,) = json.loads(mcx("align", ends[1], "--to", ends[0], "--output", out, "--json").out)[
        "aligned"
    ].values()
    assert one["after"]["total_l2"] < one["before"]["total_l2"]
    direct = json.loads(mcx("l2", ends[0], out, "--json").out)
    assert direct["total_l2"] == one["after"]["total_l2"]
    permuted = json.loads(mcx("l2", *ends, "--permutation", orders, "--json").out)["modulo_permutation"]
    assert (permuted["how"], permuted["total_l2"]) == ("file", direct["total_l2"])
    found = json.loads(mcx("l2", *ends, "--align", "weights", "--json").out)["modulo_permutation"]
    assert (found["how"], found["total_l2"]) == ("weights", direct["total_l2"])
    lines = [
        json.loads(mcx("lmc", "interpolate", *words, "--num-alphas", "3", "--json").out)
        for words in ((ends[0], out), (*ends, "--permutation", orders))
    ]
    assert lines[0]["statistics"] == lines[1]["statistics"]
    assert lines[1]["distance_unpermuted"] == pytest.approx(one["before"]["total_l2"], rel=1e-12)
    middles = [tmp_path / "m1.pt", tmp_path / "m2.pt"]
    for path, last, more in zip(middles, (out, ends[1]), ((), ("--permutation", orders)), strict=True):
        words = ["curve", "extract", "--endpoint0", ends[0], "--endpoint1", last, "--t", "0.5", *more]
        assert mcx(*words, "--output", path).code == 0
    first, second = map(state, middles)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("command", [("l2",), ("lmc", "interpolate", "--num-alphas", "3")])
def test_orders_that_were_found_for_another_network_are_warned_of(
    mcx: Callable, ends: list[Path], tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert mcx("align", ends[1], "--to", ends[0], "--output", tmp_path / "aligned.pt").code == 0
    orders = ("--permutation", tmp_path / "aligned_permutation.npz")
    right, wrong = (mcx(*command, *pair, *orders) for pair in (ends, ends[::-1]))
    assert (right.code, wrong.code) == (0, 0)
    assert [f"found for '{ends[1]}', and is used for '{ends[0]}'" in done.err for done in (right, wrong)] == [
        False,
        True,
    ]
    (tmp_path / "aligned_alignment.json").write_text('{"moving": 1, "provenance": {"inputs": [3]}}')
    assert "found for" not in mcx(*command, *ends[::-1], *orders).err


def test_distances_are_aligned_by_activations_as_align_has_them(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    words = ["align", ends[1], "--to", ends[0], "--method", "activations", "--output", tmp_path / "a.pt"]
    (one,) = json.loads(mcx(*words, "--json").out)["aligned"].values()
    alone = ["l2", *ends, "--align", "activations", "--output", tmp_path / "d.json"]
    done = mcx(*alone, "--json")
    found = json.loads(done.out)["modulo_permutation"]
    assert (found["how"], found["total_l2"]) == ("activations", one["after"]["total_l2"])
    assert json.loads((tmp_path / "d.json").read_text())["provenance"]["data"]["data set"] == "digits"
    assert "already complete" in mcx(*alone).err
    pair = [
        "l2",
        *(f"n{k}={path}" for k, path in enumerate((*ends, tmp_path / "a.pt"))),
        "--align",
        "activations",
    ]
    pairs = ["--pairs", "all", "--output-dir", tmp_path / "all"]
    assert mcx(*pair, *pairs).code == 0
    several = json.loads((tmp_path / "all/n0-n1.json").read_text())["modulo_permutation"]
    assert several["total_l2"] == found["total_l2"]
    assert "has no effect" in mcx(*alone[:-2], "--split", "test").err
    assert "Total L2 aligned by activations" in mcx(*alone[:-2]).out


def test_a_curve_is_trained_to_the_permuted_end(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "aligned.pt"
    mcx("align", ends[1], "--to", ends[0], "--output", out)
    words = ["curve", "train", "--endpoint0", ends[0], "--endpoint1", ends[1], "--epochs", "0"]
    more = ["--permutation", tmp_path / "aligned_permutation.npz", "--output-dir", tmp_path / "curve"]
    assert mcx(*words, *more).code == 0
    last = checkpoints.read(tmp_path / "curve/checkpoints/checkpoint-0.pt").content["control_points"][-1]
    aligned = state(out)
    assert all(torch.equal(tensor, aligned[name]) for name, tensor in last.items())


def test_several_are_aligned_into_a_folder_and_missing_ones_again(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    moving, out = shuffled(mcx, ends[0], tmp_path), tmp_path / "out"
    words = ["align", f"a={moving}", f"b={ends[1]}", "--to", ends[0], "--output-dir", out]
    first = mcx(*words, "--json")
    assert sorted(json.loads(first.out)["aligned"]) == ["a", "b"]
    before = {path: path.read_bytes() for path in out.glob("*") if path.is_file()}
    assert len(before) == 6
    again = mcx(*words)
    assert "already complete" in again.err
    (out / "b.pt").unlink()
    assert mcx(*words, "-q").code == 0
    assert (out / "b.pt").read_bytes() == before[out / "b.pt"]
    assert mcx(*words, "--seed", "7").code == 3


def test_a_frame_by_activations_has_the_first_as_it_is(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    words = ["align", *(f"n{k}={path}" for k, path in enumerate(ends)), "--cycle", "--method", "activations"]
    found = json.loads(mcx(*words, "--output-dir", tmp_path / "out", "--json").out)["aligned"]
    moved = ["align", ends[1], "--to", ends[0], "--method", "activations", "--output", tmp_path / "moved.pt"]
    (alone,) = json.loads(mcx(*moved, "--json").out)["aligned"].values()
    first, second = (state(tmp_path / f"out/n{k}.pt") for k in (0, 1))
    assert all(torch.equal(tensor, first[name]) for name, tensor in state(ends[0]).items())
    by_hand = state(tmp_path / "moved.pt")
    assert all(torch.equal(tensor, by_hand[name]) for name, tensor in second.items())
    assert found["n1"]["objective"] == pytest.approx(alone["objective"], rel=1e-9)
    assert "already complete" in mcx(*words, "--output-dir", tmp_path / "out").err


def test_a_frame_is_one_for_all(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    moving, out = shuffled(mcx, ends[0], tmp_path), tmp_path / "out"
    words = ["align", f"a={ends[0]}", f"b={moving}", f"c={ends[1]}", "--cycle", "--output-dir", out]
    found = json.loads(mcx(*words, "--json").out)
    assert found["fixed"] is None
    first, original = state(out / "a.pt"), state(ends[0])
    assert all(torch.equal(tensor, original[name]) for name, tensor in first.items())
    back = state(out / "b.pt")
    assert all(torch.equal(tensor, original[name]) for name, tensor in back.items())
    kept = {path: path.read_bytes() for path in out.glob("*.pt")}
    (out / "c_permutation.npz").unlink()
    assert mcx(*words, "-q").code == 0
    assert {path: path.read_bytes() for path in out.glob("*.pt")} == kept


def test_a_signal_between_networks_stops_and_the_same_command_goes_on(
    mcx: Callable, ends: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", match.by_weights
    words = ["align", f"a={ends[1]}", f"b={ends[0]}", "--to", ends[0], "--output-dir", out]

    def stopped(*given: Any, **more: Any) -> Any:
        if (out / "a.pt").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(match, "by_weights", stopped)
        assert mcx(*words).code == 75
    first = (out / "a.pt").stat().st_mtime_ns
    assert not (out / "b.pt").exists()
    assert mcx(*words).code == 0
    assert (out / "a.pt").stat().st_mtime_ns == first
    assert (out / "b.pt").exists()


def stopped_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """A signal after so many sweeps."""
    write, count = progress.Kept.write, itertools.count(1)

    def signalled(kept: progress.Kept, how_far: match.Progress) -> None:
        write(kept, how_far)
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(progress.Kept, "write", signalled)


@pytest.mark.parametrize("folder", [False, True])
def test_a_matching_that_was_stopped_goes_on_at_its_sweep(
    mcx: Callable, ends: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    words = ["align", f"a={ends[1]}", "--to", ends[0], "--restarts", "3"]
    place = ["--output-dir", "."] if folder else ["--output", "a.pt"]
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    sweeps: list[match.Progress] = []
    with monkeypatch.context() as patch:
        patch.setattr(progress.Kept, "write", lambda _, how_far: sweeps.append(how_far))
        assert mcx(*words, *place).code == 0
    monkeypatch.chdir(tmp_path / "part")
    for number in range(1, len(sweeps), 2):  # after one sweep, after three of which two are new, …
        with monkeypatch.context() as patch:
            stopped_at(patch, min(number, 2))
            done = mcx(*words, *place)
            assert (done.code, Path("a.pt").exists()) == (75, False), done.err
            assert ("goes on where it was ended" in done.err) == (number > 1)
        if number == 5:
            break
    done = mcx(*words, *place)
    assert done.code == 0, done.err
    assert "goes on where it was ended" in done.err
    for name in ("a.pt", "a_permutation.npz"):
        assert Path(name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, other = (
        json.loads((tmp_path / name / "a_alignment.json").read_text()) for name in ("whole", "part")
    )
    assert {**one, "provenance": None} == {**other, "provenance": None}
    left = {path.name for path in Path().iterdir()} - {".mcx"}
    assert left == {"a.pt", "a_permutation.npz", "a_alignment.json"}
    assert not list(Path().rglob("*progress*"))


HEADS = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 10)
        self.heads = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        x = self.first(x.flatten(1, 2))
        return self.last((x + self.heads(x, x, x, need_weights=False)[0]).mean(1))

def net():
    return Net()
"""


@pytest.mark.slow
def test_a_matching_of_heads_that_was_stopped_goes_on_with_the_orders_in_each(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("ownheads.py").write_text(HEADS)
    own = ["--model", "ownheads:net", "--dataset", "digits"]
    few = ["--max-samples", "200", "--epochs", "1", "--seeds", "0,1", "--output-dir", "run"]
    assert mcx("train", *own, *few).code == 0
    ends = [f"run/seed{k}/checkpoint-1.pt" for k in (1, 0)]
    words = ["align", ends[0], "--to", ends[1], *own[:2], "--output", "a.pt"]
    assert mcx(*words).code == 0
    files = [Path("a.pt"), Path("a_permutation.npz")]
    whole = [path.read_bytes() for path in files]
    assert {order.ndim for order in np.load(files[1]).values()} == {1, 2}
    for path in (*files, Path("a_alignment.json")):
        path.unlink()
    for number in range(1, 20):
        with monkeypatch.context() as patch:
            stopped_at(patch, 1)
            done = mcx(*words)
        assert ("goes on where it was ended" in done.err) == (number > 1), done.err
        if done.code == 0:
            break
        assert done.code == 75
    assert number > 2
    assert [path.read_bytes() for path in files] == whole


def test_a_matching_of_other_settings_does_not_go_on_and_a_file_of_others_stays(
    mcx: Callable, ends: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, partial = (
        ["align", ends[1], "--to", ends[0], "--output", tmp_path / "a.pt"],
        tmp_path / "a_alignment.partial.json",
    )
    with monkeypatch.context() as patch:
        stopped_at(patch, 1)
        assert mcx(*words).code == 75
    assert partial.exists()
    done = mcx(*words, "--seed", "9")
    assert (done.code, "goes on" in done.err, partial.exists()) == (0, False, False)
    (tmp_path / "a.pt").unlink()
    partial.write_text('{"mine": 1}')
    for more in (["--dry-run"], []):
        done = mcx(*words, "--overwrite", *more)
        assert (done.code, partial.read_text()) == (5, '{"mine": 1}')


def test_by_activations_a_shuffled_network_comes_back(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    moving, out = shuffled(mcx, ends[0], tmp_path), tmp_path / "back.pt"
    words = ["align", moving, "--to", ends[0], "--method", "activations", "--output", out, "--json"]
    (one,) = json.loads(mcx(*words).out)["aligned"].values()
    assert one["objective"][0] <= 1 + 1e-6
    loss = json.loads(mcx("lmc", "interpolate", ends[0], out, "--num-alphas", "3", "--json").out)
    assert loss["distance"] < one["before"]["total_l2"] / 2
    assert json.loads((tmp_path / "back_alignment.json").read_text())["provenance"]["data"]


WRONG: dict[str, tuple[list[str], int, str]] = {
    "nothing to align to": (["A", "--output", "x.pt"], 2, "no network to align to"),
    "both": (["A", "--to", "B", "--cycle", "--output-dir", "x"], 2, "exclude each other"),
    "no place": (["A", "--to", "B"], 2, "no place for the aligned networks"),
    "one file for two": (["A", "B", "--to", "A", "--output", "x.pt"], 2, "--output is for one network"),
    "restarts of activations": (
        ["A", "--to", "B", "--output", "x.pt", "--method", "activations", "--restarts", "2"],
        2,
        "no effect",
    ),
    "images for weights": (["A", "--to", "B", "--output", "x.pt", "--max-samples", "9"], 2, "no effect"),
    "a cycle of one": (["A", "--cycle", "--output-dir", "x"], 2, "--cycle needs two networks"),
    "its own input": (["A", "--to", "B", "--output", "A"], 5, ""),
    "another architecture": (["OTHER", "--to", "B", "--output", "x.pt"], 3, "seed0/checkpoint-4.pt'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(
    mcx: Callable, ends: list[Path], mlps: Path, tmp_path: Path, name: str
) -> None:
    words, code, said = WRONG[name]
    places = {"A": ends[1], "B": ends[0], "OTHER": mlps / "seed0/checkpoint-4.pt"}
    places |= {word: tmp_path / word for word in ("x", "x.pt")}
    before = ends[1].read_bytes()
    done = mcx("align", *(places.get(word, word) for word in words))
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "x.pt").exists()
    assert ends[1].read_bytes() == before


def test_a_network_and_itself_is_said(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    done = mcx("align", ends[0], "--to", ends[0], "--output", tmp_path / "x.pt", "--json")
    assert "are the same network" in done.err
    (one,) = json.loads(done.out)["aligned"].values()
    assert {group["moved"] for group in one["groups"]} == {0}


def test_a_network_without_units_is_refused(mcx: Callable, tmp_path: Path) -> None:
    words = ["train", "--model", "mlp", "--model-arg", "depth=0", "--dataset", "digits", "--epochs", "0"]
    assert mcx(*words, "--seeds", "0,1", "--output-dir", tmp_path).code == 0
    first, second = (tmp_path / f"seed{k}/checkpoint-0.pt" for k in (0, 1))
    done = mcx("align", first, "--to", second, "--output", tmp_path / "x.pt")
    assert done.code == 3
    assert "no units that can be exchanged" in done.err


@pytest.mark.parametrize("damage", ["not a permutation", "another size", "another layer", "no file"])
def test_a_broken_permutation_is_refused(
    mcx: Callable, ends: list[Path], tmp_path: Path, damage: str
) -> None:
    mcx("align", ends[1], "--to", ends[0], "--output", tmp_path / "a.pt")
    orders = dict(np.load(tmp_path / "a_permutation.npz"))
    name = next(iter(orders))
    if damage == "another layer":
        orders["nowhere"] = orders.pop(name)
    elif damage == "another size":
        orders[name] = np.arange(len(orders[name]) + 1)
    else:
        orders[name] = np.zeros_like(orders[name])
    path = tmp_path / "broken.npz"
    with path.open("wb") as stream:
        np.savez(stream, **orders)
    if damage == "no file":
        path.unlink()
    done = mcx("l2", *ends, "--permutation", path)
    assert (done.code, "Traceback" in done.err) == (3, False)
    assert str(path) in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--permutation", "x.npz", "--align", "weights"], "exclude each other"),
        (["--modulo-permutation", "--align", "weights"], "exclude each other"),
        (["--permutation", "x.npz", "--output-dir", "out"], "--permutation is for one pair"),
        (["--common", "--align", "weights"], "--common compares parts of networks"),
    ],
)
def test_of_distances_one_way_to_permute_is_taken(
    mcx: Callable,
    ends: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.npz").touch()
    done = mcx("l2", *(path.absolute() for path in ends), *words)
    assert done.code == 2
    assert said in done.err


MODE = """
import torch
from torch import nn


class Mode(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.mode = nn.Linear(64, 5), nn.Linear(5, 10), 0

    def get_extra_state(self):
        return {"mode": self.mode}

    def set_extra_state(self, state):
        self.mode = state["mode"]

    def forward(self, x):
        hidden = torch.relu(self.first(x.flatten(1)))
        return self.last(hidden * torch.arange(5) if self.mode else hidden)


def net():
    return Mode()
"""


def test_networks_that_keep_other_things_beside_tensors_are_refused(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("modenet.py").write_text(MODE)
    space: dict[str, Any] = {}
    exec(MODE, space)
    for mode in (0, 1):
        model = space["net"]()
        model.mode = mode
        with Path(f"{mode}.pt").open("wb") as stream:
            torch.save(model.state_dict(), stream)
    own = ["--model", "modenet:net"]
    for words in (
        ["align", "1.pt", "--to", "0.pt", "--input-shape", "1,8,8", "--output", "x.pt"],
        ["lmc", "interpolate", "0.pt", "1.pt", "--dataset", "digits", "--num-alphas", "3"],
        ["merge", "0.pt", "1.pt", "--dataset", "digits", "--output", "x.pt"],
    ):
        done = mcx(*words, *own)
        assert done.code == 3, done.err
        assert "differ in '_extra_state'" in done.err
        assert not Path("x.pt").exists()


@pytest.mark.parametrize("place", ["files.before_rename:2", "files.after_rename:1", "files.after_rename:2"])
def test_after_a_failure_between_the_files_the_same_command_goes_on(
    mcx: Callable, ends: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from modeconn_cli.engine.results import failpoints

    words = ["align", ends[1], "--to", ends[0], "--output", tmp_path / "x.pt"]
    failpoints._counts.clear()
    with monkeypatch.context() as patch:
        patch.setattr(progress.Kept, "write", lambda *_: None)  # whose files are not those that are meant
        patch.setenv("MCX_TESTING", "1")
        patch.setenv("MCX_FAILPOINT", f"{place}=eio")
        assert mcx(*words).code == 5
    assert not (tmp_path / "x.pt").exists()
    done = mcx(*words)
    assert done.code == 0, done.err


@pytest.mark.parametrize("folder", [False, True])
def test_a_damaged_permutation_is_made_again(
    mcx: Callable, ends: list[Path], tmp_path: Path, folder: bool
) -> None:
    place = ["--output-dir", tmp_path] if folder else ["--output", tmp_path / "a.pt"]
    words = ["align", f"a={ends[1]}", "--to", ends[0], *place]
    assert mcx(*words).code == 0
    orders = tmp_path / "a_permutation.npz"
    whole = orders.read_bytes()
    orders.write_bytes(whole[:3])
    done = mcx(*words)
    assert (done.code, "made again" in done.err) == (0, True), done.err
    assert orders.read_bytes() == whole
    assert "already complete" in mcx(*words).err


def test_a_dry_run_refuses_what_the_run_refuses(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "x.pt"
    assert mcx("align", ends[1], "--to", ends[0], "--output", out).code == 0
    for more in ((), ("--dry-run",)):
        assert mcx("align", ends[1], "--to", ends[0], "--output", out, "--seed", "9", *more).code == 5


@pytest.mark.parametrize("command", ["align", "merge"])
def test_what_is_not_finite_is_refused_without_a_flag_that_is_not_there(
    mcx: Callable, ends: list[Path], tmp_path: Path, command: str
) -> None:
    content = torch.load(ends[1], weights_only=True)
    next(iter(content["model_state"].values())).view(-1)[0] = torch.nan
    with (tmp_path / "nan.pt").open("wb") as stream:
        torch.save(content, stream)
    to = ["--to", ends[0]] if command == "align" else [ends[0]]
    done = mcx(command, tmp_path / "nan.pt", *to, "--output", tmp_path / "x.pt")
    assert (done.code, "NaN" in done.err, "--allow-nonfinite" in done.err) == (3, True, False)
