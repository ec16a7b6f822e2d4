"""`mcx info --symmetries`: the groups of exchangeable units of a checkpoint's network, as they are known by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from modeconn_cli.engine.networks.graph import trace
from modeconn_cli.engine.symmetry import find, permute
from modeconn_cli.engine.symmetry.permutation import random_order

DATA = Path(__file__).parent.parent / "data"
NETWORKS = '''
import torch
from torch import nn

class Heads(nn.Module):
    """Three heads of four queries and keys and six values, over a stream of eight."""

    def __init__(self):
        super().__init__()
        self.inward, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
        self.q, self.k, self.v, self.o = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 18), nn.Linear(18, 8)

    def forward(self, x):
        x = self.inward(x)
        q, k = (each(x).view(x.shape[0], -1, 3, 4).transpose(1, 2) for each in (self.q, self.k))
        v = self.v(x).view(x.shape[0], -1, 3, 6).transpose(1, 2)
        mixed = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
        return self.out((x + self.o(mixed.transpose(1, 2).flatten(2))).mean(1))

def straight():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

class InOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.read(self.a(x)))

    def read(self, h):
        return h.cumsum(1)

class Unknown(InOrder):
    def read(self, h):
        return torch.special.bessel_j0(h)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the networks above, and where their weights go."""
    (tmp_path / "networks_of_info.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "networks_of_info", raising=False)
    return tmp_path


def saved(folder: Path, name: str) -> list[str | Path]:
    """The words that describe a network of the user's own by its bare weights."""
    made = getattr(__import__("networks_of_info"), name)()
    with (folder / f"{name}.pt").open("wb") as stream:
        torch.save(made.state_dict(), stream)
    return [folder / f"{name}.pt", "--model", f"networks_of_info:{name}", "--symmetries"]


def found(mcx, *words: str | Path) -> dict:
    done = mcx("info", *words, "--symmetries", "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)["symmetries"]


def moves(group: dict) -> list[tuple[str, int, int, int]]:
    return [(m["tensor"], m["axis"], m["length"], m["per_unit"]) for m in group["moves"]]


def test_channels_before_a_flattening_have_a_block_of_columns(mcx, networks: Path) -> None:
    of = found(mcx, networks / "seed0/checkpoint-4.pt")
    assert [(g["name"], g["units"], g["rows_per_unit"], g["layers"]) for g in of["groups"]] == [
        ("conv1", 4, 1, {"conv1": 1}),
        ("conv2", 8, 1, {"conv2": 1}),
        ("conv3", 8, 1, {"conv3": 1}),
        ("fc1", 16, 1, {"fc1": 1}),
    ]
    assert moves(of["groups"][2]) == [
        ("conv3.weight", 0, 8, 1),
        ("conv3.bias", 0, 8, 1),
        ("fc1.weight", 1, 32, 4),
    ]
    assert (of["model"], of["units"]) == ("cnn", 36)
    assert of["fixed"] == {"output": "its units are the model's outputs"}


def test_heads_have_the_rows_of_their_queries_and_groups_of_one_layer_are_told_apart(mcx, own: Path) -> None:
    groups = {g["name"]: g for g in found(mcx, *saved(own, "Heads")[:3], "--input-shape", "5,4")["groups"]}
    assert {name: (g["units"], g["rows_per_unit"]) for name, g in groups.items()} == {
        "inward": (8, 1),
        "q": (4, 3),  # an entry of the queries lies in each of three heads
        "q#0": (3, 4),
        "v": (6, 3),
    }
    assert groups["q#0"]["layers"] == {"q": 4, "k": 4, "v": 6}
    assert ("o.weight", 1, 18, 6) in moves(groups["q#0"])
    assert [name for name, *_ in moves(groups["q"])] == ["q.weight", "q.bias", "k.weight", "k.bias"]
    assert {name: g["within"] for name, g in groups.items()} == {
        "inward": None,
        "q": "q#0",
        "q#0": None,
        "v": "q#0",
    }


def test_the_table_says_in_each_of_which_units_have_their_own_order(mcx, own: Path) -> None:
    told = mcx("info", *saved(own, "Heads"), "--input-shape", "5,4", "--show-keys", "0").out
    lines = [line.split() for line in told.partition("Exchangeable")[2].splitlines()]
    assert ["group", "layers", "in", "each", "of", "units", "rows", "per", "unit"] in lines
    assert ["v", "v", "q#0", "6", "3"] in lines
    assert ["q#0", "q,", "k,", "v", "3", "4"] in lines


def test_heads_and_their_entries_come_back_from_any_order(mcx, own: Path, tmp_path: Path) -> None:
    path, *words = saved(own, "Heads")[:3]
    words += ["--input-shape", "5,4"]
    state = torch.load(path, weights_only=True)
    symmetry = find(trace(__import__("networks_of_info").Heads(), (5, 4)))
    generator = np.random.default_rng(3)
    moved = permute(state, {group: random_order(group, generator) for group in symmetry.groups})
    torch.save(moved, tmp_path / "moved.pt")
    out, beside = tmp_path / "back.pt", tmp_path / "back_permutation.npz"
    done = mcx("align", tmp_path / "moved.pt", "--to", path, "--output", out, *words, "--json")
    assert done.code == 0, done.err
    (one,) = json.loads(done.out)["aligned"].values()
    assert one["after"]["total_l2"] == 0
    assert {name: order.shape for name, order in np.load(beside).items()} == {
        "inward": (8,),
        "q": (3, 4),
        "q#0": (3,),
        "v": (3, 6),
    }
    apart = mcx("l2", path, tmp_path / "moved.pt", "--permutation", beside, *words, "--json")
    assert json.loads(apart.out)["modulo_permutation"]["total_l2"] == 0


def test_a_residual_stream_is_one_group_of_all_its_writers(mcx) -> None:
    groups = found(mcx, DATA / "garipov_preresnet8_a.pt")["groups"]
    stream = groups[0]
    assert len(stream["layers"]) > 1
    assert {axis for _, axis, *_ in moves(stream)} == {0, 1}


def test_weights_in_safetensors_have_the_symmetries_of_the_same_weights_elsewhere(
    mcx, networks: Path, tmp_path: Path
) -> None:
    checkpoint = networks / "seed0/checkpoint-4.pt"
    state = torch.load(checkpoint, weights_only=True)["model_state"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert found(mcx, tmp_path / "w.safetensors", "--input-shape", "1,8,8") == found(mcx, checkpoint)


def test_the_table_names_group_axes_and_what_stays(mcx, networks: Path) -> None:
    done = mcx("info", networks / "seed0/checkpoint-4.pt", "--symmetries", "--show-keys", "0")
    assert done.code == 0, done.err
    told = done.out.partition("Exchangeable")[2].splitlines()
    assert told[0] == " units (36 in 4 groups)"
    assert "  conv3  conv3       8              1" in told
    assert "  conv3  fc1.weight        1      32         4" in told
    assert told[-3:] == [
        "Not exchangeable (1)",
        "  layer   reason",
        "  output  its units are the model's outputs",
    ]


def test_a_network_without_hidden_units_is_an_answer_and_no_error(mcx, own: Path) -> None:
    words = saved(own, "straight")
    of = found(mcx, *words[:3], "--input-shape", "3,2,2")
    assert (of["groups"], of["units"], list(of["fixed"])) == ([], 0, ["1"])
    assert "No units can be exchanged." in mcx("info", *words, "--input-shape", "3,2,2").out


def test_units_that_an_operation_without_a_rule_reads_are_refused_with_the_operation(mcx, own: Path) -> None:
    done = mcx("info", *saved(own, "Unknown"), "--input-shape", "4")
    assert (done.code, done.out) == (3, "")
    assert "aten.special_bessel_j0" in done.err


def test_units_that_are_read_in_order_stay_and_the_line_is_named(mcx, own: Path) -> None:
    of = found(mcx, *saved(own, "InOrder")[:3], "--input-shape", "4")
    assert of["groups"] == []
    assert "cumsum" in of["fixed"]["a"]
    assert "networks_of_info.py" in of["fixed"]["a"]


def test_a_network_that_nobody_names_is_asked_for(mcx, own: Path) -> None:
    path, *_ = saved(own, "Heads")
    done = mcx("info", path, "--symmetries")
    assert (done.code, done.out, "--model" in done.err) == (2, "", True)


@pytest.mark.parametrize(
    "words",
    [("--model", "cnn"), ("--num-classes", "10"), ("--input-shape", "1,8,8"), ("--model-arg", "width=4")],
)
def test_what_names_a_network_has_no_effect_without_it(mcx, networks: Path, words: tuple[str, str]) -> None:
    done = mcx("info", networks / "seed0/checkpoint-4.pt", *words)
    assert (done.code, done.out) == (2, "")
    assert f"{words[0]} has no effect without --symmetries" in done.err


def test_without_it_nothing_of_networks_and_graphs_is_imported(
    mcx, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modeconn_cli.engine.commands.info.symmetries", None)
    done = mcx("info", networks / "seed0/checkpoint-4.pt", "--json")
    assert (done.code, "symmetries" in json.loads(done.out)) == (0, False)
