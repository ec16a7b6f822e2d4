"""`mcx swap` as its user sees it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modeconn_cli.engine import symmetry

DOCUMENTED = re.compile(
    r"""L2 Distance Statistics:
  Total L2 distance:      \d+\.\d{6}
  Normalized L2 distance: \d+\.\d{6}
  Total parameters:       1,618

Top 5 layers by normalized L2 distance:
(?:  [1-5]\. \S+: \d+\.\d{6} \(raw: \d+\.\d{2}, params: [\d,]+\)
){5}
Verification:
"""
)
FILES = ("o.pt", "o_metadata.json", "o_layer_distances.json")


@pytest.fixture
def here(networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained network a.pt, and the working directory."""
    shutil.copy2(networks / "seed0/checkpoint-4.pt", tmp_path / "a.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports from its folder is forgotten."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def words(*more: str, source: str = "a.pt", output: str = "o.pt") -> tuple[str, ...]:
    return ("swap", "--checkpoint", source, "--output", output, *more)


def state_of(path: Path | str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)["model_state"]
    return found


def metadata(name: str = "o_metadata.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(name).read_text())
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What it writes and prints --------------------------------------------------------------------------------


def test_a_pipe_gets_the_documented_text(mcx, here: Path) -> None:
    done = mcx(*words("--layer-depth", "early", "--num-swaps", "2", "--seed", "42"))
    assert done.code == 0
    assert DOCUMENTED.match(done.out)
    tail = done.out.partition("Verification:\n")[2].splitlines()
    assert [line.partition(":")[0] for line in tail] == ["  Level", "  Largest output change", "  Equivalent"]
    assert tail[0] == "  Level:                  quick"
    assert tail[-1] == "  Equivalent:             yes"
    written = ("o_metadata.json", "o_layer_distances.json", "o.pt")
    assert done.err.splitlines() == [
        "exchanging 1:3, 0:2 of the 4 units of conv1",
        *(f"wrote {name}" for name in written),
    ]


def test_the_metadata_holds_the_documented_keys(mcx, here: Path) -> None:
    mcx(*words("--layer-name", "conv2", "--seed", "0"))
    found = metadata()
    documented = {
        "swapped", "original_checkpoint", "layer_depth", "block_idx", "layer_idx", "layer_name",
        "layer_description", "num_filters", "num_swaps", "neuron_pairs", "seed", "l2_distance", "verification",
    }  # fmt: skip
    assert documented <= set(found)
    assert set(found["l2_distance"]) == {"total_l2", "normalized_total_l2", "total_params", "top_5_layers"}
    assert [set(row) for row in found["l2_distance"]["top_5_layers"]] == [
        {"layer_name", "normalized_l2", "raw_l2", "n_params"}
    ] * 5
    assert set(found["verification"]) >= {
        "acc_original", "acc_swapped", "pred_match_rate", "max_output_diff", "level", "is_equivalent"
    }  # fmt: skip
    assert found["verification"]["acc_original"] is None
    assert (found["layer_name"], found["layer_depth"], found["num_filters"]) == ("conv2", None, 8)
    assert (found["block_idx"], found["layer_idx"], found["seed"], found["num_swaps"]) == (-1, -1, 0, 1)
    assert found["provenance"]["inputs"][0]["path"] == "a.pt"


def test_the_metadata_of_the_original_script_names_a_layer_by_its_block(mcx, here: Path) -> None:
    model = ("--model", "vgg16", "--model-arg", "width=4")
    data = ("--dataset", "synthetic", "--data-arg", "train=12,test=6,classes=3")
    assert mcx("train", *model, *data, "--epochs", "1", "--output-dir", "t", "-q").code == 0
    assert (
        mcx(
            "swap",
            "--checkpoint",
            "t/seed0/checkpoint-1.pt",
            "--output",
            "s.pt",
            "--layer-name",
            "layer_blocks.2.1",
        ).code
        == 0
    )
    found = json.loads(Path("s_metadata.json").read_text())
    keys = ("original_checkpoint", "block_idx", "layer_idx", "neuron_pairs", "num_swaps", "seed")
    original = {name: found[name] for name in keys}
    Path("s_metadata.json").write_text(json.dumps(original))
    done = mcx("l2", "t/seed0/checkpoint-1.pt", "s.pt", "--modulo-permutation", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["modulo_permutation"]["total_l2"] == 0
    Path("s_metadata.json").write_text(json.dumps({**original, "layer_idx": 9}))
    done = mcx("l2", "t/seed0/checkpoint-1.pt", "s.pt", "--modulo-permutation")
    assert done.code == 3
    assert "0 layers are number 9 of block 2" in done.err


def test_the_layer_distances_have_an_entry_per_parameter_and_nothing_else(mcx, here: Path) -> None:
    mcx(*words("--layer-name", "conv2"))
    found = json.loads(Path("o_layer_distances.json").read_text())
    assert list(found) == list(state_of("a.pt"))
    assert {frozenset(entry) for entry in found.values()} == {
        frozenset({"raw_l2", "normalized_l2", "relative_distance", "n_params"})
    }
    assert [name for name, entry in found.items() if entry["raw_l2"] > 0] == [
        "conv2.weight", "conv2.bias", "conv3.weight",
    ]  # fmt: skip


def test_the_swapped_file_says_what_it_is_and_carries_its_momentum(mcx, here: Path) -> None:
    mcx(*words("--layer-name", "conv2", "--pairs", "0:5"))
    before, after = (torch.load(name, weights_only=True) for name in ("a.pt", "o.pt"))
    assert after["epoch"] == before["epoch"] == 4
    assert after["mcx"]["model"] == "cnn"
    buffers = [content["optimizer_state"]["state"][2]["momentum_buffer"] for content in (before, after)]
    assert torch.equal(buffers[1][[0, 5]], buffers[0][[5, 0]])
    assert torch.equal(buffers[1][1:5], buffers[0][1:5])
    assert mcx(*words(source="o.pt", output="p.pt")).code == 0


def test_json_is_the_metadata(mcx, here: Path) -> None:
    done = mcx(*words("--json"))
    assert json.loads(done.out) == metadata()


# C1, C5 ---------------------------------------------------------------------------------------------------


def test_c1_the_same_seed_gives_the_same_bytes(mcx, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (here / folder).mkdir()
        shutil.copy2("a.pt", here / folder)
        with monkeypatch.context() as patch:
            patch.chdir(here / folder)
            assert mcx(*words("--seed", "7", "--num-swaps", "3")).code == 0
    for name in ("o.pt", "o_layer_distances.json"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()
    first, second = (metadata(f"{folder}/o_metadata.json") for folder in ("one", "two"))
    for found in (first, second):
        del found["provenance"]["time"], found["provenance"]["host"]
    assert first == second


def test_another_seed_gives_another_network(mcx, here: Path) -> None:
    mcx(*words("--seed", "7"))
    mcx(*words("--seed", "8", output="p.pt"))
    assert metadata()["neuron_pairs"] != metadata("p_metadata.json")["neuron_pairs"]


@pytest.mark.parametrize(
    "how", [("--layer-depth", "late", "--num-swaps", "3"), ("--layer-name", "conv1"), ("--mirror",)]
)
def test_c5_swapping_twice_restores_the_original(mcx, here: Path, how: tuple[str, ...]) -> None:
    assert mcx(*words(*how)).code == 0
    pairs = ",".join(f"{i}:{j}" for i, j in metadata()["neuron_pairs"])
    back = ("--layer-name", metadata()["layer_name"], "--pairs", pairs) if pairs else how
    assert mcx(*words(*back, source="o.pt", output="p.pt")).code == 0
    original, swapped, restored = (state_of(name) for name in ("a.pt", "o.pt", "p.pt"))
    assert any(not torch.equal(original[name], swapped[name]) for name in original)
    assert list(restored) == list(original)
    assert all(torch.equal(original[name], restored[name]) for name in original)
    first, last = (
        torch.load(name, weights_only=True)["optimizer_state"]["state"] for name in ("a.pt", "p.pt")
    )
    assert len(first) == 10
    assert all(torch.equal(first[k]["momentum_buffer"], last[k]["momentum_buffer"]) for k in first)


def test_the_same_command_again_is_complete_and_changes_nothing(mcx, here: Path) -> None:
    first = mcx(*words())
    before = contents(here)
    again = mcx(*words())
    assert (again.code, again.out, contents(here)) == (0, first.out, before)
    assert "already complete: o.pt" in again.err


# C2 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgotten", ["conv3.bias", "fc1.weight"])
def test_c2_a_swap_that_is_not_equivalent_is_shown_and_not_written(
    mcx, here: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    permute = symmetry.permute
    monkeypatch.setattr(symmetry, "permute", lambda s, *rest: {**permute(s, *rest), forgotten: s[forgotten]})
    before = contents(here)
    done = mcx(*words("--verify"))
    assert done.code == 4
    assert done.out.endswith("  Equivalent:             no\n")
    (difference,) = re.findall(r"Largest output change:  (\S+)", done.out)
    assert float(difference) > 1e-6
    assert (
        f"mcx swap: error: the swapped network is not equivalent: outputs differ by up to {difference}"
        in done.err
    )
    assert contents(here) == before
    shown = json.loads(mcx(*words("--json")).out)
    assert (shown["verification"]["is_equivalent"], shown["checkpoint_sha256"]) == (False, None)


# C3 -------------------------------------------------------------------------------------------------------

REFUSED: dict[tuple[str, ...], tuple[str, str]] = {
    ("--num-swaps", "0"): ("--num-swaps must be at least 1, got 0", ""),
    ("--num-swaps", "-1"): ("--num-swaps must be at least 1, got -1", ""),
    ("--num-swaps", "5"): (
        "--num-swaps 5 is too many for 'conv3' with 8 exchangeable units", "hint: choose 1 to 4"
    ),
    ("--layer-name", "conv9"): ("no layer 'conv9' that makes units", "hint: did you mean 'conv"),
    ("--layer-name", "output"): ("the units of 'output' cannot be exchanged: ", "hint: choose from: conv1, "),
    ("--pairs", "0:8"): ("'conv3' has no unit 8", "hint: units of 'conv3' are 0 … 7, each may be named once"),
    ("--pairs", "1:1"): ("unit 1 of 'conv3' is named twice", "hint: units of 'conv3' are 0 … 7"),
    ("--pairs", "1:2,2:3"): ("unit 2 of 'conv3' is named twice", "hint: units of 'conv3' are 0 … 7"),
    ("--pairs", "1:2,1:2"): ("--pairs names 1:2 twice", ""),
    ("--pairs", "1:" + "9" * 30): ("'conv3' has no unit 9999", "hint: units of 'conv3' are 0 … 7"),
    ("--pairs", "1:2:3"): ("--pairs: '1:2:3' is not two unit numbers", "hint: write them as 228:6,3:9"),
    ("--pairs", "-1:2"): ("--pairs", "hint: "),
    ("--pairs", "1-2"): ("--pairs: '1-2' is not two unit numbers", "hint: write them as 228:6,3:9"),
    ("--mirror", "--random"): ("--mirror and --random exclude each other", ""),
    ("--mirror", "--pairs", "1:2"): ("--pairs has no effect with --mirror and --random", ""),
    ("--random", "--layer-name", "conv1"): ("--layer-name has no effect with --mirror and --random", ""),
    ("--mirror", "--num-swaps", "3"): ("--num-swaps has no effect with --mirror and --random", ""),
    ("--layer-name", "conv1", "--layer-depth", "early"): ("--layer-depth has no effect with --layer-name", ""),
    ("--pairs", "1:2", "--num-swaps", "3"): ("--num-swaps has no effect with --pairs", ""),
    ("--model", "cnnn"): ("unknown model 'cnnn'", "hint: did you mean 'cnn'?"),
    ("--model-arg", "depth=3"): ("--model-arg: unknown argument 'depth'", "hint: "),
}  # fmt: skip


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_c3_what_cannot_be_exchanged_is_refused_with_the_range(
    mcx, here: Path, flags: tuple[str, ...]
) -> None:
    message, hint = REFUSED[flags]
    before = contents(here)
    done = mcx(*words(*flags))
    assert (done.code, done.out, contents(here)) == (2, "", before)
    assert done.err.startswith(f"mcx swap: error: {message}")
    assert hint in done.err


def test_c3_a_layer_of_one_unit_is_refused(mcx, here: Path) -> None:
    flags = ("--model", "mlp", "--num-classes", "10", "--model-arg", "width=1,depth=1")
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 1), torch.nn.ReLU(), torch.nn.Linear(1, 10)
    )
    names = {"1": "fc1", "3": "output"}
    state = {f"{names[n[0]]}{n[1:]}": tensor for n, tensor in model.state_dict().items()}
    torch.save(state, here / "one.pt")
    before = contents(here)
    done = mcx(*words(*flags, "--layer-name", "fc1", source="one.pt"))
    assert (done.code, done.out, contents(here)) == (2, "", before)
    assert done.err == "mcx swap: error: the units of 'fc1' cannot be exchanged: it has one unit\n"


def test_missing_paths_are_asked_for(mcx, here: Path) -> None:
    for flags, hint in (
        (("--output", "o.pt"), "pass --checkpoint"),
        (("--checkpoint", "a.pt"), "pass --output"),
    ):
        done = mcx("swap", *flags)
        assert (done.code, done.out) == (2, "")
        assert hint in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num-classes", "100"), "2 mismatches, output.weight: file (10, 16), model (100, 16)"),
        (("--model-arg", "width=8"), "9 mismatches, conv1.weight: file (4, 1, 3, 3), model (8, 1, 3, 3)"),
        (("--model", "mlp"), "mismatches, fc1.weight: file (16, 32), model (64, 64); "),
    ],
    ids=["classes", "width", "model"],
)
def test_a_network_that_does_not_fit_is_refused_with_its_shapes(mcx, here: Path, flags, message) -> None:
    done = mcx(*words(*flags))
    assert (done.code, done.out) == (3, "")
    assert message in done.err
    assert "hint: pass the --model, --num-classes, --input-shape and --model-arg" in done.err


def test_weights_that_are_not_finite_need_a_flag(mcx, here: Path) -> None:
    content = torch.load("a.pt", weights_only=True)
    content["model_state"]["conv2.bias"][1] = float("nan")
    torch.save(content, "nan.pt")
    done = mcx(*words(source="nan.pt"))
    assert (done.code, done.out) == (3, "")
    assert "holds NaN or infinity in 1 of 10 tensors: conv2.bias\nhint: pass --allow-nonfinite" in done.err
    assert mcx(*words("--allow-nonfinite", "--no-verify", source="nan.pt")).code == 0


# C4, and what lies in the way -----------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "overwrite"])
@pytest.mark.parametrize("name", ["a.pt", "./a.pt", "soft.pt", "hard.pt", "folder/a.pt"])
def test_c4_the_input_is_never_the_output(mcx, here: Path, name: str, overwrite: tuple[str, ...]) -> None:
    (here / "soft.pt").symlink_to("a.pt")
    (here / "hard.pt").hardlink_to("a.pt")
    (here / "folder").symlink_to(".")
    before = contents(here)
    done = mcx(*words(*overwrite, output=name))
    assert (done.code, done.out, contents(here)) == (5, "", before)
    assert f"error: '{Path(name)}' is the input itself" in done.err


def test_c4_the_input_is_not_a_companion_of_the_output_either(mcx, here: Path) -> None:
    shutil.copy("a.pt", "o_metadata.json")
    before = contents(here)
    done = mcx(*words("--overwrite", source="o_metadata.json"))
    assert (done.code, contents(here)) == (5, before)


@pytest.mark.parametrize("taken", FILES)
def test_files_that_are_in_the_way_are_kept_unless_overwrite(mcx, here: Path, taken: str) -> None:
    (here / taken).write_text("mine")
    before = contents(here)
    done = mcx(*words())
    assert (done.code, done.out, contents(here)) == (5, "", before)
    assert f"error: '{taken}' exists\nhint: use --overwrite" in done.err
    assert mcx(*words("--overwrite")).code == 0
    assert metadata()["swapped"] is True


def test_a_swap_of_other_settings_is_kept(mcx, here: Path) -> None:
    mcx(*words("--seed", "1"))
    before = contents(here)
    assert (mcx(*words("--seed", "2")).code, contents(here)) == (5, before)


# C7 -------------------------------------------------------------------------------------------------------


def test_verify_compares_both_networks_on_the_whole_test_set(mcx, here: Path) -> None:
    done = mcx(*words("--verify"))
    assert done.code == 0
    check = metadata()["verification"]
    assert (check["level"], check["is_equivalent"], check["pred_match_rate"]) == ("full", True, 100.0)
    assert check["acc_original"] == check["acc_swapped"] > 10
    assert f"  Accuracy, original:     {check['acc_original']:.2f}%\n" in done.out
    assert "  Equal predictions:      100.00%\n" in done.out


def test_no_verify_says_so(mcx, here: Path) -> None:
    done = mcx(*words("--no-verify"))
    assert (done.code, metadata()["verification"]["level"]) == (0, "none")
    assert "mcx swap: warning: not verified (--no-verify)\n" in done.err
    assert done.out.endswith("  Level:                  none\n")


def test_verify_without_a_data_set_says_what_to_do(mcx, here: Path) -> None:
    torch.save({"model_state": state_of("a.pt")}, "plain.pt")
    flags = ("--model", "cnn", "--num-classes", "10", "--model-arg", "width=4")
    done = mcx(*words(*flags, "--verify", source="plain.pt"))
    assert (done.code, done.out) == (2, "")
    assert (
        "error: --verify needs a data set, and 'plain.pt' names none\nhint: pass --dataset NAME" in done.err
    )
    assert mcx(*words(*flags, source="plain.pt")).code == 0


def test_c7_a_data_set_that_is_not_there_is_named(mcx, here: Path) -> None:
    done = mcx(*words("--verify", "--dataset", "missing.npz"))
    assert (done.code, done.out) == (3, "")
    assert "error: 'missing.npz' does not exist\nhint: pass --data-path" in done.err


@pytest.mark.parametrize(
    ("dataset", "hint"),
    [("cifar10", "--download"), ("mnist", "--download"), ("imagenet", ""), ("nowhere/d.npz", "")],
)
def test_c7_data_that_a_checkpoint_names_and_that_are_not_there_are_needed_for_verify_alone(
    mcx, here: Path, dataset: str, hint: str
) -> None:
    content = torch.load("a.pt", weights_only=True)
    content["mcx"]["dataset"] = dataset
    torch.save(content, "b.pt")
    before = contents(here)
    done = mcx(*words("--verify", "--data-path", "nowhere", source="b.pt"))
    assert (done.code, done.out, contents(here)) == (3, "", before), done.err
    assert "nowhere" in done.err
    assert hint in done.err
    assert mcx(*words(source="b.pt")).code == 0


# Networks of one's own ------------------------------------------------------------------------------------

OWN = """
from torch import nn

def make(num_classes, width=6):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))
"""


def test_a_network_of_ones_own_is_swapped(mcx, here: Path, importable: None) -> None:
    (here / "own_network.py").write_text(OWN)
    namespace: dict[str, Any] = {}
    exec(OWN, namespace)
    torch.manual_seed(0)
    torch.save(namespace["make"](3).state_dict(), "own.pt")
    flags = ("--model", "own_network:make", "--num-classes", "3", "--dataset", "digits")
    done = mcx(*words(*flags, "--pairs", "0:5", "--layer-name", "1", source="own.pt"))
    assert (done.code, "exchanging 0:5 of the 6 units of 1" in done.err.splitlines()) == (0, True)
    before, after = torch.load("own.pt", weights_only=True), state_of("o.pt")
    assert torch.equal(after["1.weight"][[0, 5]], before["1.weight"][[5, 0]])
    assert torch.equal(after["3.weight"][:, [0, 5]], before["3.weight"][:, [5, 0]])


def test_the_size_of_an_image_stands_for_a_data_set(mcx, here: Path, importable: None) -> None:
    (here / "own_network.py").write_text(OWN.replace("64", "3 * 5 * 5"))
    state = {"1.weight": torch.rand(6, 75), "1.bias": torch.rand(6)}
    torch.save({**state, "3.weight": torch.rand(3, 6), "3.bias": torch.rand(3)}, "own.pt")
    flags = ("--model", "own_network:make", "--num-classes", "3", "--image-size", "5")
    assert mcx(*words(*flags, source="own.pt")).code == 0
    assert torch.load("o.pt", weights_only=True)["mcx"]["input_shape"] == [3, 5, 5]


def test_a_factory_that_a_checkpoint_names_is_not_imported(mcx, here: Path, importable: None) -> None:
    (here / "evil_network.py").write_text("open('marker', 'w').close()\ndef make(): ...\n")
    content = torch.load("a.pt", weights_only=True)
    content["mcx"]["model"] = "evil_network:make"
    torch.save(content, "evil.pt")
    done = mcx(*words(source="evil.pt"))
    assert (done.code, done.out) == (2, "")
    assert "error: the checkpoint names the factory 'evil_network:make', which would run code" in done.err
    assert "hint: pass --model evil_network:make if you trust it" in done.err
    assert not (here / "marker").exists()
    assert "evil_network" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_module:make", "json:make", "own_network"])
def test_a_factory_that_is_not_there_is_named(mcx, here: Path, importable: None, name: str) -> None:
    done = mcx(*words("--model", name, "--num-classes", "10"))
    assert (done.code, done.out) == (2 if ":" not in name else 3, "")
    assert f"'{name.partition(':')[0]}'" in done.err
