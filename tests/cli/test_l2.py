"""`mcx l2` of two checkpoints, as its user sees it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modeconn_cli.engine.networks import checkpoints, sums

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


def test_d7_a_pipe_gets_the_documented_text(mcx: Callable, ends: list[Path]) -> None:
    first, second = ends
    order = ("--show-top-k", "2", "--sort-by", "normalized_l2")
    done = mcx("l2", "--checkpoint1", first, "--checkpoint2", second, *order)
    assert done.code == 0
    assert DOCUMENTED.fullmatch(done.out)
    assert done.out == mcx("l2", first, second, "--show_top_k=2").out


def test_d7_the_text_is_the_same_at_any_width(
    mcx: Callable, ends: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = mcx("l2", *ends).out
    monkeypatch.setenv("COLUMNS", "20")
    assert mcx("l2", *ends).out == wide


def test_json_and_file_hold_the_documented_keys(mcx: Callable, ends: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "distance.json"
    done = mcx("l2", *ends, "--output", output, "--json")
    document = json.loads(done.out)
    assert json.loads(output.read_text()) == document
    keys = {"checkpoint1", "checkpoint2", "total_l2", "normalized_total_l2", "total_params", "num_layers"}
    assert keys | {"top_10_layers", "all_layer_distances", "schema"} <= set(document)
    assert set(document["top_10_layers"][0]) == {
        "rank", "layer_name", "normalized_l2", "raw_l2", "relative_distance", "n_params",
    }  # fmt: skip
    assert document["schema"] == "mcx.l2/1"
    fewer = json.loads(mcx("l2", *ends, "--show-top-k", "2", "--json").out)
    assert fewer["top_10_layers"] == document["top_10_layers"]
    assert fewer["top_2_layers"] == document["top_10_layers"][:2]


def test_order_and_number_of_layers_follow_the_flags(mcx: Callable, ends: list[Path]) -> None:
    done = json.loads(mcx("l2", *ends, "--sort-by", "relative", "--show-top-k", "99", "--json").out)
    values = [row["relative_distance"] for row in done["top_99_layers"]]
    assert values == sorted(values, reverse=True)
    assert len(values) == done["num_layers"] == 10


def test_d1_the_same_file_twice_is_zero_with_a_warning(mcx: Callable, ends: list[Path]) -> None:
    first, _ = ends
    done = mcx("l2", first, first)
    assert done.code == 0
    assert "Total L2 distance:      0.000000" in done.out
    assert "same file" in done.err


def test_d2_different_networks_are_named_on_both_sides(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    with other.open("wb") as stream:
        torch.save({"conv1.weight": torch.ones(4, 1, 3, 3), "w": torch.ones(2)}, stream)
    done = mcx("l2", ends[0], other)
    assert done.code == 3
    assert done.out == ""
    assert "1 tensors in common, 9 (conv1.bias" in done.err
    assert "1 (w) only in" in done.err


def test_d5_top_k_must_be_positive(mcx: Callable, ends: list[Path]) -> None:
    for value in ("0", "-1"):
        done = mcx("l2", *ends, "--show-top-k", value)
        assert (done.code, done.out) == (2, "")
        assert "--show-top-k must be at least 1" in done.err


def test_both_ways_of_naming_the_pair_at_once_are_refused(mcx: Callable, ends: list[Path]) -> None:
    first, second = ends
    assert mcx("l2", first, second, "--checkpoint1", first).code == 2
    assert mcx("l2", first).code == 2


def test_a_pair_may_be_labelled(mcx: Callable, ends: list[Path]) -> None:
    first, second = ends
    assert mcx("l2", f"a={first}", f"b={second}").out == mcx("l2", first, second).out


def test_an_existing_output_is_kept_unless_the_same_command_made_it(
    mcx: Callable, ends: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out.json"
    first, second = ends
    assert mcx("l2", first, second, "--output", output).code == 0
    before = output.read_bytes()
    again = mcx("l2", first, second, "--output", output)
    assert (again.code, output.read_bytes()) == (0, before)
    assert "already complete" in again.err
    other = mcx("l2", second, first, "--output", output)
    assert (other.code, other.out, output.read_bytes()) == (5, "", before)
    assert "use --overwrite" in other.err
    assert mcx("l2", second, first, "--output", output, "--overwrite").code == 0


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


def test_whole_number_weights_are_refused(mcx: Callable, tmp_path: Path) -> None:
    for name in "ab":
        with (tmp_path / f"{name}.pt").open("wb") as stream:
            torch.save({"w": torch.ones(3, dtype=torch.int8)}, stream)
    done = mcx("l2", tmp_path / "a.pt", tmp_path / "b.pt")
    assert (done.code, "w holds whole numbers" in done.err) == (3, True)


def test_buffers_and_second_names_of_a_users_network_are_no_parameters(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_pieces_of_one_tensor_are_no_second_names(tmp_path: Path) -> None:
    weight = torch.randn(8)
    torch.save({"a": weight, "piece": weight[:4], "again": weight}, tmp_path / "x.pt")
    assert list(checkpoints.read(tmp_path / "x.pt").parameters()) == ["a", "piece"]


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


def test_an_index_that_names_what_no_file_holds_is_refused(mcx: Callable, tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "m.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "m.safetensors", "ghost": "m.safetensors"}}))
    done = mcx("l2", index, index)
    assert (done.code, "names 'ghost', which none of its files holds" in done.err) == (3, True)


def test_common_compares_what_both_have_and_lists_the_rest(mcx, tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = [{"b.weight": torch.randn(4, 3), "b.bias": torch.randn(4)} for _ in range(2)]
    a = {**body[0], "head.weight": torch.randn(10, 4), "old": torch.ones(2)}
    b = {**body[1], "head.weight": torch.randn(7, 4), "new": torch.ones(3)}
    c = {"other": torch.ones(1)}
    wrapped = {f"module.{name.replace('b.', 'b._orig_mod.')}": tensor for name, tensor in b.items()}
    paths = [tmp_path / f"{name}.pt" for name in "abc"]
    for path, state in zip(paths, (a, wrapped, c), strict=True):
        torch.save(state, path)
    first, second, third = paths
    assert mcx("l2", first, second).code == 3
    done = mcx("l2", first, second, "--common", "--metric", "l2,cosine", "--output", tmp_path / "x.json")
    assert done.code == 0, done.err
    for line in (
        "Left out (3 tensors):",
        "  only in the first: old",
        "  only in the second: new",
        "  of two shapes: head.weight (10, 4) and (7, 4)",
    ):
        assert line in done.out.splitlines()
    found = json.loads((tmp_path / "x.json").read_text())
    flat = [torch.cat([s[n].double().flatten() for n in ("b.weight", "b.bias")]) for s in (a, b)]
    assert found["total_l2"] == pytest.approx(float((flat[0] - flat[1]).norm()), rel=1e-12)
    assert found["total_params"] == 16
    assert found["left_out"] == {
        "only_first": ["old"], "only_second": ["new"], "shapes": {"head.weight": [[10, 4], [7, 4]]},
    }  # fmt: skip
    assert "no tensor of one name and shape" in mcx("l2", first, third, "--common").err
    many = json.loads(mcx("l2", *paths, "--common", "--pairs", "all", "--json").out)
    assert [row["left_out"] for row in many["pairs"]] == [3, None, None]
    assert [row["status"] == "ok" for row in many["pairs"]] == [True, False, False]
    assert mcx("l2", first, second, "--common", "--metric", "functional").code == 2
    assert "--model has no effect with --common" in mcx("l2", first, second, "--common", "--model", "mlp").err
