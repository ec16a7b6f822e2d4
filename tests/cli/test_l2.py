"""`mcx l2` as its user sees it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

DOCUMENTED = re.compile(
    r"""L2 Distance Statistics:
  Total L2 distance:      \d+\.\d{6}
  Normalized L2 distance: \d+\.\d{6}
  Total parameters:       [\d,]+

Top 2 layers by normalized L2 distance:
  1\. \S+: \d+\.\d{6} \(raw: \d+\.\d{2}, params: [\d,]+\)
  2\. \S+: \d+\.\d{6} \(raw: \d+\.\d{2}, params: [\d,]+\)
"""
)


def pair(networks: Path) -> list[Path]:
    return [networks / f"seed{k}/checkpoint-4.pt" for k in (0, 1)]


def test_a_pipe_gets_the_documented_text(mcx, networks: Path) -> None:
    first, second = pair(networks)
    words = [
        "--checkpoint1",
        first,
        "--checkpoint2",
        second,
        "--show-top-k",
        "2",
        "--sort-by",
        "normalized_l2",
    ]
    done = mcx("l2", *words)
    assert done.code == 0
    assert DOCUMENTED.fullmatch(done.out)
    assert done.out == mcx("l2", first, second, "--show_top_k=2").out


def test_the_text_is_the_same_at_any_width(mcx, networks: Path, monkeypatch) -> None:
    wide = mcx("l2", *pair(networks)).out
    monkeypatch.setenv("COLUMNS", "20")
    assert mcx("l2", *pair(networks)).out == wide


def test_json_and_file_hold_the_documented_keys(mcx, networks: Path, tmp_path: Path) -> None:
    output = tmp_path / "distance.json"
    done = mcx("l2", *pair(networks), "--output", output, "--json")
    document = json.loads(done.out)
    assert json.loads(output.read_text()) == document
    keys = {"checkpoint1", "checkpoint2", "total_l2", "normalized_total_l2", "total_params", "num_layers"}
    assert keys | {"top_10_layers", "all_layer_distances", "schema"} <= set(document)
    assert set(document["top_10_layers"][0]) == {
        "rank", "layer_name", "normalized_l2", "raw_l2", "relative_distance", "n_params",
    }  # fmt: skip
    assert document["schema"] == "mcx.l2/1"


def test_order_and_number_of_layers_follow_the_flags(mcx, networks: Path) -> None:
    done = json.loads(mcx("l2", *pair(networks), "--sort-by", "relative", "--show-top-k", "99", "--json").out)
    values = [row["relative_distance"] for row in done["top_99_layers"]]
    assert values == sorted(values, reverse=True)
    assert len(values) == done["num_layers"] == 10


def test_the_same_file_twice_is_zero_with_a_warning(mcx, networks: Path) -> None:
    first, _ = pair(networks)
    done = mcx("l2", first, first)
    assert done.code == 0
    assert "Total L2 distance:      0.000000" in done.out
    assert "same file" in done.err


def test_a_zero_layer_is_null_in_json_and_na_in_text(mcx, tmp_path: Path) -> None:
    for name, value in (("a", 0.0), ("b", 1.0)):
        with (tmp_path / f"{name}.pt").open("wb") as stream:
            torch.save({"w": torch.full((2,), value)}, stream)
    pair_ = tmp_path / "a.pt", tmp_path / "b.pt"
    assert "n/a" in mcx("l2", *pair_, "--sort-by", "relative").out
    assert (
        json.loads(mcx("l2", *pair_, "--json").out)["all_layer_distances"]["w"]["relative_distance"] is None
    )


def test_different_networks_are_named_on_both_sides(mcx, networks: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    with other.open("wb") as stream:
        torch.save({"conv1.weight": torch.ones(4, 1, 3, 3), "w": torch.ones(2)}, stream)
    done = mcx("l2", pair(networks)[0], other)
    assert done.code == 3
    assert done.out == ""
    assert "1 tensors in common, 9 (conv1.bias" in done.err
    assert "1 (w) only in" in done.err


def test_top_k_must_be_positive(mcx, networks: Path) -> None:
    for value in ("0", "-1"):
        done = mcx("l2", *pair(networks), "--show-top-k", value)
        assert (done.code, done.out) == (2, "")
        assert "--show-top-k must be at least 1" in done.err


def test_both_ways_of_naming_the_pair_at_once_are_refused(mcx, networks: Path) -> None:
    first, second = pair(networks)
    assert mcx("l2", first, second, "--checkpoint1", first).code == 2
    assert mcx("l2", first).code == 2


def test_an_existing_output_is_kept_unless_the_same_command_made_it(
    mcx, networks: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.json"
    first, second = pair(networks)
    assert mcx("l2", first, second, "--output", output).code == 0
    before = output.read_bytes()
    again = mcx("l2", first, second, "--output", output)
    assert (again.code, output.read_bytes()) == (0, before)
    assert "already complete" in again.err
    other = mcx("l2", second, first, "--output", output)
    assert (other.code, other.out, output.read_bytes()) == (5, "", before)
    assert "use --overwrite" in other.err
    assert mcx("l2", second, first, "--output", output, "--overwrite").code == 0


def test_flags_reach_the_summaries_of_several_too(mcx, networks: Path, tmp_path: Path) -> None:
    first, second = pair(networks)
    done = mcx("l2", "--checkpoint1", first, "--checkpoint2", second, "--output-dir", tmp_path)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert mcx("l2", "--output-dir", tmp_path / "one", first).code == 2
    assert mcx("l2", "--checkpoint1", first, first, second, second).code == 2


def test_a_pair_may_be_labelled(mcx, networks: Path) -> None:
    first, second = pair(networks)
    assert mcx("l2", f"a={first}", f"b={second}").out == mcx("l2", first, second).out


def test_whole_number_weights_are_refused(mcx, tmp_path: Path) -> None:
    for name in "ab":
        with (tmp_path / f"{name}.pt").open("wb") as stream:
            torch.save({"w": torch.ones(3, dtype=torch.int8)}, stream)
    done = mcx("l2", tmp_path / "a.pt", tmp_path / "b.pt")
    assert (done.code, "w holds whole numbers" in done.err) == (3, True)


def test_buffers_and_second_names_of_a_users_network_are_no_parameters(
    mcx, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "odd.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)\n"
        "        self.b.weight = self.a.weight\n"
        "        self.out = nn.Linear(64, classes)\n"
        "        self.register_buffer('scale', torch.tensor([2.0]))\n"
        "    def forward(self, x):\n"
        "        return self.out(torch.relu(self.b(torch.relu(self.a(x.flatten(1) * self.scale)))))\n"
        "def make(num_classes):\n"
        "    return Odd(num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("train", "--model", "odd:make", "--dataset", "digits", "--epochs", "1", "--seeds", "0,1")
    assert mcx(*words, "--output-dir", tmp_path / "out", "-q").code == 0
    ends = [tmp_path / f"out/seed{k}/checkpoint-1.pt" for k in (0, 1)]
    found = json.loads(mcx("l2", *ends, "--json").out)
    assert found["total_params"] == 64 * 64 + 64 + 64 + 64 * 10 + 10
