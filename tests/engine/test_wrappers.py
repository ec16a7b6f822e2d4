"""Names that wrappers have changed: whatever wrapped a network or a part of it, its weights are its weights."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.networks.models.recognise import matches

NAMES = ("a", "b", "fc1", "model", "module", "net", "0")


class GradSampleModule(nn.Module):
    """Has the name of Opacus' wrapper for the network inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._module = inner


class Trainer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.model = inner


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "torch.compile": torch.compile,
    "AveragedModel": AveragedModel,
    "Opacus": GradSampleModule,
    "activation checkpointing": checkpoint_wrapper,
    "model": Trainer,
}


def random_network(rng: random.Random, depth: int = 0) -> nn.Module:
    """A tree of modules some of whose names are wrappers' too; all tensors have one shape and different values."""
    if depth == 2 or (depth and rng.random() < 0.3):
        return rng.choice([lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3)])()
    tree = nn.Module()
    for name in rng.sample(NAMES, rng.randint(1, 3)):
        tree.add_module(name, random_network(rng, depth + 1))
    return tree


def filled(model: nn.Module) -> nn.Module:
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape)) if tensor.is_floating_point() else tensor.fill_(7)
    return model


def wrapped(model: nn.Module, wrap: Callable[[nn.Module], nn.Module], rng: random.Random) -> nn.Module:
    """A copy with one random part wrapped, or the whole."""
    model = copy.deepcopy(model)
    places = [name for name, part in model.named_modules() if list(part.state_dict())]
    place = rng.choice(places)
    if not place:
        return wrap(model)
    parent, _, name = place.rpartition(".")
    owner = model.get_submodule(parent)
    owner.add_module(name, wrap(model.get_submodule(place)))
    return model


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() >= wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_part_of_a_random_network_is_found_again_both_ways(kind: str) -> None:
    for seed in range(40):
        rng = random.Random(f"{kind}{seed}")
        plain = filled(random_network(rng))
        other = wrapped(plain, WRAPPERS[kind], rng)
        bare, outer = plain.state_dict(), other.state_dict()
        for state, model in ((outer, plain), (bare, other)):
            target = copy.deepcopy(model)
            for tensor in target.state_dict().values():
                tensor.zero_()
            weights.load_into(target, state, "a.pt")
            assert same(
                {n: t for n, t in target.state_dict().items() if not n.endswith("n_averaged")},
                {n: t for n, t in model.state_dict().items() if not n.endswith("n_averaged")},
            ), (seed, list(bare), list(outer))


def test_wrappers_in_each_other_and_on_both_sides() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    plain = filled(network())
    one, two = copy.deepcopy(plain), copy.deepcopy(plain)
    one[0] = torch.compile(checkpoint_wrapper(one[0]))
    two[2] = nn.DataParallel(torch.compile(two[2]))
    outer = AveragedModel(nn.DataParallel(torch.compile(two)))
    for state, model in ((one.state_dict(), outer), (outer.state_dict(), one)):
        named = weights.named_as(state, model.state_dict())
        assert named.keys() == model.state_dict().keys()
        assert all(
            torch.equal(t, model.state_dict()[n]) for n, t in named.items() if not n.endswith("n_averaged")
        )


def test_a_network_with_attributes_of_these_names_keeps_them_apart() -> None:
    """Student and teacher of one shape: `model.weight` and `module.weight` are two tensors."""
    pair = nn.ModuleDict({"model": nn.Linear(2, 2), "module": nn.Linear(2, 2)})
    state = {**pair.state_dict()}
    assert weights.named_as(state, pair.state_dict()) == state
    outer = {f"model.{name}": tensor for name, tensor in state.items()}
    assert weights.named_as(outer, state) == state
    inside = {name.replace("module.", "module._orig_mod."): tensor for name, tensor in state.items()}
    assert weights.named_as(inside, state) == state
    alone = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    with pytest.raises(InputError, match="6 mismatches"):  # whose it is cannot be told
        weights.load_into(pair, alone, "a.pt")


def test_a_real_mismatch_is_said_without_the_names_that_differ_by_wrappers() -> None:
    state = {f"_module.{name}": tensor for name, tensor in nn.Linear(3, 2).state_dict().items()}
    del state["_module.bias"]
    with pytest.raises(InputError, match="1 mismatches, bias: missing in the file"):
        weights.load_into(nn.Linear(3, 2), state, "a.pt")


def test_files_of_before_the_counters_are_read_and_count_from_zero() -> None:
    model = filled(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))
    old = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    weights.load_into(model, old, "a.pt")
    assert int(model[0].num_batches_tracked) == 0
    weights.check_alike(model.state_dict(), old, "a.pt", "b.pt")


def test_registered_networks_are_recognised_whatever_wrapped_them() -> None:
    from modeconn_cli.engine.networks.models import Architecture, build

    state = build(Architecture("preresnet8", 7, (3, 32, 32), {})).state_dict()
    inside = {name.replace("layer2.0.", "layer2.0._orig_mod."): t for name, t in state.items()}
    averaged = {"n_averaged": torch.tensor(5), **{f"module.{name}": t for name, t in inside.items()}}
    old = {n: t for n, t in averaged.items() if not n.endswith("num_batches_tracked")}
    for found in (inside, averaged, old):
        assert [arch.model for arch in matches(found)] == ["preresnet8"]


# In the commands ------------------------------------------------------------------------------------------

NETWORK = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

def parallel():
    return nn.DataParallel(net())

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.model, self.module = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.module(torch.relu(self.model(x.flatten(1))))
"""


def save(path: Path, state: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights of two networks of one's own, and their module on the path."""
    (tmp_path / "wrapped_nets.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import importlib
    import sys

    sys.modules.pop("wrapped_nets", None)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(importlib.import_module("wrapped_nets").net().state_dict())
    return found


def part(state: dict[str, Tensor], place: str = "1.", name: str = "_orig_mod.") -> dict[str, Tensor]:
    return {key.replace(place, place + name): tensor for key, tensor in state.items()}


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"n_averaged": torch.tensor(3), **{f"module.{name}": t for name, t in state.items()}}


MODEL = ("--model", "wrapped_nets:net", "--dataset", "digits", "--max-samples", "40")


def test_distances_do_not_depend_on_what_wrapped_either_network(mcx, own, tmp_path: Path) -> None:
    a, b = own
    right = sum(
        float((a[n].double() - b[n].double()).square().sum()) for n in a if n.endswith(("weight", "bias"))
    )
    plain = save(tmp_path / "plain.pt", b)
    for k, state in enumerate((part(a), averaged(part(a)), {f"_module.{n}": t for n, t in a.items()})):
        path = save(tmp_path / f"w{k}.pt", state)
        for pair in ((path, plain), (plain, path)):
            for more in ((), MODEL[:4], (*MODEL, "--metric", "l2,fisher,functional")):
                done = mcx("l2", *pair, "--json", *more)
                assert done.code == 0, done.err
                found = json.loads(done.out)
                assert found["total_l2"] ** 2 == pytest.approx(right, rel=1e-6)
        first = json.loads(mcx("l2", path, plain, "--json").out)["all_layer_distances"]
        assert set(first) <= set(checkpoints.read(path).state)


def test_a_network_inside_of_a_module_with_others_is_found(mcx, own, tmp_path: Path) -> None:
    a, b = own
    beside = {"criterion.weight": torch.ones(10), "metric.total": torch.tensor(3)}
    for k, prefix in enumerate(("model.", "backbone.", "a.b._orig_mod.")):
        one = save(tmp_path / f"l{k}.pt", {**{f"{prefix}{n}": t for n, t in a.items()}, **beside})
        plain = save(tmp_path / "plain.pt", b)
        right = float(mcx("l2", save(tmp_path / "a.pt", a), plain, "--json").out and json.loads(
            mcx("l2", tmp_path / "a.pt", plain, "--json").out)["total_l2"])  # fmt: skip
        for more in ((), MODEL[:4], ("--common",)):
            for pair in ((one, plain), (plain, one)):
                done = mcx("l2", *pair, "--json", *more)
                assert done.code == 0, done.err
                assert json.loads(done.out)["total_l2"] == pytest.approx(right, rel=1e-12)
                assert "left out: criterion.weight, metric.total" in done.err
        done = mcx("lmc", "interpolate", one, plain, "--num-alphas", "3", "--json", *MODEL)
        assert done.code == 0, done.err
        done = mcx("swap", "--checkpoint", one, "--output", f"o{k}.pt", *MODEL[:4])
        assert done.code == 0, done.err
        assert checkpoints.read(Path(f"o{k}.pt")).state.keys() == a.keys()
    both = {f"{who}.{n}": t for who, state in (("student", a), ("teacher", b)) for n, t in state.items()}
    both_of = save(tmp_path / "both.pt", both)
    done = mcx("l2", both_of, plain, *MODEL[:4])
    assert (done.code, "'student.', 'teacher.'" in done.err, "--state-key student" in done.err) == (
        3,
        True,
        True,
    )
    assert json.loads(mcx("l2", f"{both_of}::teacher", plain, "--json").out)["total_l2"] == 0


def test_networks_with_other_heads_are_compared_below_a_prefix_too(mcx, own, tmp_path: Path) -> None:
    a, b = own
    inside = {f"model.{n}": t for n, t in a.items() if not n.startswith("4.")} | {
        "head.weight": torch.ones(3)
    }
    one, plain = save(tmp_path / "one.pt", inside), save(tmp_path / "plain.pt", b)
    done = mcx("l2", one, plain)
    assert (done.code, "--common" in done.err) == (3, False)  # no tensor of one name
    found = json.loads(mcx("l2", one, plain, "--common", "--json").out)
    assert list(found["all_layer_distances"]) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    done = mcx("l2", save(tmp_path / "more.pt", {**a, "x.weight": torch.ones(1)}), plain)
    assert (done.code, "--common compares the 6 tensors" in done.err) == (3, True)


def test_every_command_reads_what_was_wrapped(mcx, own, tmp_path: Path) -> None:
    a, b = own
    old = {n: t for n, t in averaged(a).items() if not n.endswith("num_batches_tracked")}
    first, second = (
        save(tmp_path / "run/checkpoint-1.pt", old),
        save(tmp_path / "run/checkpoint-2.pt", part(b)),
    )
    done = mcx("swap", "--checkpoint", first, "--output", "s.pt", "--verify", *MODEL)
    assert done.code == 0, done.err
    assert checkpoints.read(Path("s.pt")).state.keys() == a.keys()
    for words in (
        ("l2", first, "s.pt", "--modulo-permutation", *MODEL[:4]),
        ("lmc", "interpolate", first, second, "--num-alphas", "3", *MODEL),
        ("curve", "train", "--endpoint0", first, "--endpoint1", second, "--epochs", "1", "--output-dir", "c", *MODEL),
        ("csl", "score", "--checkpoint-dir", "run", "--output-dir", "csl", *MODEL),
        ("curvature", "--checkpoint-dir", "run", "--niter", "1", "--save-dir", "curvature", *MODEL),
        ("dormant", "--checkpoint-dir", "run", "--output-dir", "dormant", *MODEL),
    ):  # fmt: skip
        done = mcx(*words)
        assert done.code == 0, done.err
    curve = ("--curve-checkpoint", "c/checkpoints/checkpoint-1.pt")
    assert mcx("curve", "eval", *curve, "--num-points", "3", "--output-dir", "e", *MODEL).code == 0
    parallel = ("--model", "wrapped_nets:parallel")
    done = mcx("curve", "extract", *curve, "--t", "0", "--bn", "keep", "--output", "x.pt", *parallel)
    assert done.code == 0, done.err
    assert all(torch.equal(t, a[n]) for n, t in checkpoints.read(Path("x.pt")).parameters().items())


def test_networks_that_are_wrapped_themselves_are_trained_and_read_again(mcx, own) -> None:
    words = ("--model", "wrapped_nets:parallel", "--dataset", "digits", "--max-samples", "40")
    assert mcx("train", *words, "--epochs", "1", "--output-dir", "t").code == 0
    path = Path("t/seed0/checkpoint-1.pt")
    read = checkpoints.read(path)
    assert set(read.about.buffers) <= set(read.state)
    for more in (words, MODEL):
        done = mcx("csl", "score", "--checkpoint", path, "--output-dir", more[1][-3:], *more)
        assert done.code == 0, done.err


def test_a_network_with_parts_called_model_and_module_is_read(mcx, own, tmp_path: Path) -> None:
    import wrapped_nets

    state = wrapped_nets.Own().state_dict()
    words = ("--model", "wrapped_nets:Own", "--dataset", "digits", "--max-samples", "40")
    for k, each in enumerate((state, {f"model.{n}": t for n, t in state.items()}, averaged(state))):
        path = save(tmp_path / f"own{k}.pt", each)
        done = mcx("swap", "--checkpoint", path, "--output", f"own_s{k}.pt", *words[:4])
        assert done.code == 0, done.err
        assert checkpoints.read(Path(f"own_s{k}.pt")).state.keys() == state.keys()


def test_every_command_takes_the_entry_of_a_file(mcx, own, tmp_path: Path) -> None:
    a, b = own
    for epoch in (1, 2):
        content = {"model": a, "trainer": {"ema": b}, "epoch": epoch}
        save(tmp_path / f"both/checkpoint-{epoch}.pt", content)  # type: ignore[arg-type]
    plain, file = save(tmp_path / "b.pt", b), Path("both/checkpoint-1.pt")
    ema = f"{file}::trainer.ema"
    done = mcx("l2", plain, ema, "--state-key", ".", "--json")
    found = json.loads(done.out)
    assert (found["total_l2"], found["checkpoint2"]) == (0, ema)
    assert found["provenance"]["inputs"][1]["path"] == ema
    assert "are the same file" not in mcx("l2", file, ema).err
    many = json.loads(mcx("l2", file, ema, plain, "--pairs", "all", "--output-dir", "many", "--json").out)
    assert list(many["checkpoints"]) == ["checkpoint-1", "checkpoint-1.trainer.ema", "b"]
    assert mcx("l2", f"e={ema}", plain, "both/checkpoint-*.pt::trainer.ema", "--json").code == 0
    done = mcx("swap", "--checkpoint", ema, "--output", "s.pt", *MODEL[:4])
    assert done.code == 0, done.err
    assert json.loads(Path("s_metadata.json").read_text())["original_checkpoint"] == ema
    done = mcx("l2", ema, "s.pt", "--modulo-permutation", "--json", *MODEL[:4])
    assert json.loads(done.out)["modulo_permutation"]["total_l2"] == 0
    assert mcx("swap", "--checkpoint", ema, "--output", file, *MODEL[:4]).code == 5
    words = ("--grad", "none", *MODEL)
    assert mcx("csl", "score", "--checkpoint", ema, "--output-dir", "csl", *words).code == 0
    done = mcx("csl", "score", "--checkpoint", f"{file}::model", "--output-dir", "csl", *words)
    assert (done.code, "is not the checkpoint" in done.err) == (3, True)
    assert (
        mcx("csl", "score", "--checkpoint-dir", "both::trainer.ema", "--output-dir", "all", *words).code == 0
    )
    assert len(list(Path("all").glob("loss_digits_*"))) == 2
    ends = ("--endpoint0", f"{file}::model", "--endpoint1", ema)
    done = mcx("curve", "train", *ends, "--epochs", "1", "--output-dir", "c", *MODEL)
    assert done.code == 0, done.err
    assert ema in Path("c/checkpoints/endpoint_l2_distance.txt").read_text()
    done = mcx(
        "lmc", "interpolate", f"{file}::model", ema, "--num-alphas", "3", "--output-dir", "line", *MODEL
    )
    assert done.code == 0, done.err
    assert json.loads(mcx("info", ema, "--json").out)["layout"] == "trainer.ema"
