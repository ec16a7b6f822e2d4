"""Networks that share names and shapes of their tensors: a file holds what it says, in the words of its time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeconn_cli.engine import datasets
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, models
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.models import Architecture, recognise
from modeconn_cli.engine.registry import CHECKPOINT_SCHEMA, MODELS
from modeconn_cli.engine.settings.shared import DataSettings, ModelSettings

DATA = ("synthetic", "train=40,test=20,size=28,channels=1,classes=10")
WORDS = ("--dataset", DATA[0], "--data-arg", DATA[1])


def arch(name: str, size: int = 28) -> Architecture:
    return Architecture(name, 10, (1, size, size), {})


def plain(state: dict[str, Tensor], x: Tensor, pool: Callable[..., Tensor], padding: int = 2) -> Tensor:
    """LeNet-5 by hand, in the type of `x`."""
    w = {name: tensor.to(x.dtype) for name, tensor in state.items()}
    x = pool(F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=padding)), 2)
    x = pool(F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"])), 2).flatten(1)
    x = F.relu(F.linear(F.relu(F.linear(x, w["fc1.weight"], w["fc1.bias"])), w["fc2.weight"], w["fc2.bias"]))
    return F.linear(x, w["fc3.weight"], w["fc3.bias"])


def mean_loss(state: dict[str, Tensor], pool: Callable[..., Tensor]) -> float:
    """On the test images, in float64."""
    data = datasets.load(
        DataSettings(dataset=DATA[0], data_arg=tuple(DATA[1].split(","))), torch.device("cpu")
    )
    (batch,) = data.test.batches(20)
    return float(F.cross_entropy(plain(state, batch.images.double(), pool), batch.labels))


def write(path: Path, seed: int, model: str | None, schema: str = "mcx.checkpoint/1") -> dict[str, Tensor]:
    """A checkpoint as mcx has written it under a schema; a bare one without a model."""
    state = models.build(arch("lenet5"), seed).state_dict()
    state = {name: 2 * tensor for name, tensor in state.items()}
    said = {"schema": schema, "model": model, "num_classes": 10, "input_shape": [1, 28, 28], "model_args": {},
            "dataset": DATA[0], "data_arg": DATA[1].split(","), "transform": "half", "wd": 0.0,
            "settings": {"model": model, "lr": 0.1}, "buffers": []}  # fmt: skip
    torch.save({"epoch": 3, "model_state": state, "mcx": said} if model else state, path)
    return state


@pytest.mark.parametrize(("name", "pool"), [("lenet5", F.avg_pool2d), ("lenet5-max", F.max_pool2d)])
@pytest.mark.parametrize(("size", "padding"), [(28, 2), (32, 0)])
def test_the_lenet_of_the_study_pools_by_averages(name: str, pool: Any, size: int, padding: int) -> None:
    model = models.build(arch(name, size)).double()
    x = torch.randn(3, 1, size, size, dtype=torch.float64)
    assert torch.allclose(model(x), plain(model.state_dict(), x, pool, padding), rtol=0, atol=1e-12)
    assert sum(p.numel() for p in model.parameters()) == 61_706


def test_a_file_of_the_first_schema_means_the_network_with_max_pooling(mcx: Callable, tmp_path: Path) -> None:
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    state = write(old, 0, "lenet5")
    write(new, 0, "lenet5", CHECKPOINT_SCHEMA)
    found = {path: json.loads(mcx("info", path, "--json").out)["model"] for path in (old, new)}
    assert found == {old: ["lenet5-max"], new: ["lenet5"]}
    assert (
        "model: lenet5-max"
        in mcx("swap", "--checkpoint", old, "--output", tmp_path / "s.pt", "--print-config").out
    )
    assert checkpoints.read(old).about.settings == {"model": "lenet5-max", "lr": 0.1}
    for path, pool in ((old, F.max_pool2d), (new, F.avg_pool2d)):
        out = tmp_path / f"csl_{path.stem}"
        assert mcx("csl", "score", "--checkpoint", path, "--split", "test", "--output-dir", out).code == 0
        losses = np.load(next(out.glob("loss_ce_*.npy"), None) or next(out.glob("loss_synthetic*.npy")))
        assert abs(losses.mean() / mean_loss(state, pool) - 1) < 1e-5


def test_what_is_made_of_a_file_of_the_first_schema_is_of_the_second(mcx: Callable, tmp_path: Path) -> None:
    old, other = tmp_path / "checkpoint-3.pt", tmp_path / "other.pt"
    state = write(old, 0, "lenet5")
    write(other, 1, "lenet5")
    swapped, point = tmp_path / "swapped.pt", tmp_path / "point.pt"
    done = mcx("swap", "--checkpoint", old, "--output", swapped, "--random", "--verify")
    assert done.code == 0, done.err
    done = mcx("curve", "extract", "--endpoint0", old, "--endpoint1", other, "--t", "0", "--output", point)
    assert done.code == 0, done.err
    for path in (swapped, point):
        content = torch.load(path, weights_only=True)
        assert (content["mcx"]["schema"], content["mcx"]["model"]) == (CHECKPOINT_SCHEMA, "lenet5-max")
        assert (
            abs(mean_loss(content["model_state"], F.max_pool2d) / mean_loss(state, F.max_pool2d) - 1) < 1e-5
        )
    line = tmp_path / "line"
    done = mcx("lmc", "interpolate", swapped, old, "--num-alphas", "3", "--output-dir", line, "--json")
    assert done.code == 0, done.err
    ends = json.loads(done.out)
    assert abs(ends["losses_test"][0] / mean_loss(state, F.max_pool2d) - 1) < 1e-5
    done = mcx("l2", swapped, old, "--metric", "l2,functional", "--json")
    assert json.loads(done.out)["functional"]["logit_distance"] < 1e-3, done.out


def test_twins_are_not_taken_for_one_another(mcx: Callable, tmp_path: Path) -> None:
    old, new, bare = tmp_path / "old.pt", tmp_path / "new.pt", tmp_path / "bare.pt"
    for path, seed, name, schema in (
        (old, 0, "lenet5", "mcx.checkpoint/1"),
        (new, 1, "lenet5", CHECKPOINT_SCHEMA),
    ):
        write(path, seed, name, schema)
    state = write(bare, 1, None)
    line = ("lmc", "interpolate", old, new, "--num-alphas", "3", "--output-dir", tmp_path / "line")
    done = mcx(*line)
    assert (done.code, "holds lenet5, the first checkpoint lenet5-max" in done.err) == (3, True), done.err
    done = mcx("l2", old, new, "--metric", "l2,functional")
    assert (done.code, "the first checkpoint lenet5-max" in done.err) == (3, True), done.err
    done = mcx(*line, "--model", "lenet5-max", "--json")
    assert done.code == 0, done.err
    assert abs(json.loads(done.out)["losses_test"][-1] / mean_loss(state, F.max_pool2d) - 1) < 1e-5
    done = mcx("swap", "--checkpoint", old, "--output", tmp_path / "s.pt", "--model", "lenet5", "--dry-run")
    assert "says it holds lenet5-max: read as lenet5, as --model says" in done.err
    done = mcx("swap", "--checkpoint", bare, "--output", tmp_path / "s.pt")
    assert done.code == 2
    assert "its keys fit lenet5 and lenet5-max" in done.err
    assert "--model" in done.err
    done = mcx("swap", "--checkpoint", bare, "--output", tmp_path / "s.pt", "--model", "lenet5")
    assert done.code == 0, done.err


def test_a_run_of_before_goes_on_as_what_it_was(mcx: Callable, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    words = ("train", *WORDS, "--batch-size", "20", "--save-freq", "1", "--optimizer", "adam")
    assert mcx(*words, "--model", "lenet5-max", "--epochs", "2", "--output-dir", whole).code == 0
    shutil.copytree(whole, run)
    (run / "seed0/checkpoint-2.pt").unlink()
    for name in ("manifest.json", "kept.jsonl"):
        for path in run.rglob(name):
            path.unlink()
    for path in run.rglob("*.json"):  # as they were written then
        path.write_text(path.read_text().replace("lenet5-max", "lenet5").replace('"checkpoint"', '"before"'))
    for path in run.rglob("*.pt"):
        content = torch.load(path, weights_only=True)
        content["mcx"] |= {"schema": "mcx.checkpoint/1", "model": "lenet5"}
        torch.save(content, path)
    done = mcx(*words, "--model", "lenet5", "--epochs", "2", "--output-dir", run)
    assert (done.code, "'model' was lenet5-max, now lenet5" in done.err) == (3, True), done.err
    done = mcx(*words, "--model", "lenet5-max", "--epochs", "2", "--output-dir", run)
    assert done.code == 0, done.err
    first, second = (torch.load(at / "seed0/checkpoint-2.pt", weights_only=True) for at in (whole, run))
    assert all(
        torch.equal(tensor, second["model_state"][name]) for name, tensor in first["model_state"].items()
    )
    assert second["mcx"]["model"] == "lenet5-max"


@pytest.mark.parametrize("schema", ["mcx.checkpoint/3", 2, ["mcx.checkpoint/1"]])
def test_a_file_of_a_later_version_is_not_guessed_at(tmp_path: Path, schema: Any) -> None:
    write(tmp_path / "f.pt", 0, "lenet5", schema)
    with pytest.raises(InputError, match="written by a newer mcx"):
        checkpoints.read(tmp_path / "f.pt")


def shapes(arch: Architecture) -> dict[str, Tensor] | None:
    """The tensors of a network without memory; None where there is none of that kind."""
    try:
        with torch.device("meta"):
            return dict(models.build(arch).state_dict())
    except SettingsError:
        return None


def asked_for(sizes: Sequence[dict[str, int]]) -> set[tuple[str, ...]]:
    """All groups of networks that share names and shapes, each of which is asked for with all names."""
    found: dict[frozenset[tuple[str, torch.Size]], dict[str, Architecture]] = {}
    for name, entry in MODELS.items():
        for args in sizes:
            of = Architecture(name, 7, entry.input_shape, args)
            if state := shapes(of):
                found.setdefault(frozenset((n, t.shape) for n, t in state.items()), {})[name] = of
    groups = set()
    for twins in found.values():
        if len(twins) > 1:
            state = shapes(next(iter(twins.values())))
            assert state is not None
            assert {each.model for each in recognise.matches(state)} == set(twins)
            with pytest.raises(SettingsError, match=" and ".join(twins)) as caught:
                recognise.recognised(Checkpoint(Path("f.pt"), "bare", state), ModelSettings(), Runtime())
            assert "--model" in caught.value.hint
            groups.add(tuple(twins))
    return groups


@pytest.mark.slow
def test_every_pair_of_twins_is_asked_for_at_every_width() -> None:
    widths: tuple[dict[str, int], ...] = ({}, {"width": 4}, {"width": 16}, {"width": 64}, {"width": 128})
    vgg = (("vgg16_bn", "garipov-vgg16bn"), ("vgg19_bn", "garipov-vgg19bn"))
    assert asked_for(widths) == {("lenet5", "lenet5-max"), *vgg}
