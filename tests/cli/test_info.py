"""`mcx info`: what a file holds, without running anything in it."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from modeconn_cli.engine.networks import models
from modeconn_cli.engine.networks.models import Architecture

DATA = Path(__file__).parent.parent / "data"


def info(mcx, *words: str | Path) -> dict:
    done = mcx("info", *words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_checkpoint_of_ours_says_what_it_is(mcx, networks: Path) -> None:
    found = info(mcx, networks / "seed0/checkpoint-4.pt")
    assert (found["layout"], found["epoch"], found["model"], found["dataset"]) == (
        "model_state",
        4,
        ["cnn"],
        "digits",
    )
    assert (found["num_tensors"], found["num_params"], found["has_optimizer"]) == (10, 1618, True)
    assert found["tensors"][0] == {
        "name": "conv1.weight",
        "shape": [4, 1, 3, 3],
        "dtype": "float32",
        "finite": True,
    }


def test_a_foreign_network_and_its_curve_are_recognised(mcx) -> None:
    network = info(mcx, DATA / "garipov_preresnet8_a.pt")
    assert (network["model"], network["recognised"], network["dataset"]) == (["preresnet8"], True, "cifar10")
    curve = info(mcx, DATA / "garipov_preresnet8_curve.pt")
    assert (curve["model"], curve["curve"], curve["num_bends"]) == (["preresnet8"], "bezier", 3)
    assert curve["num_params"] == 77_850


def test_values_that_are_not_finite_are_named(mcx, tmp_path: Path) -> None:
    with (tmp_path / "w.pt").open("wb") as stream:
        torch.save({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2)}, stream)
    assert info(mcx, tmp_path / "w.pt")["nonfinite_tensors"] == ["a"]
    assert "NaN or infinity in a" in mcx("info", tmp_path / "w.pt").out


def test_of_safetensors_only_the_header_is_read(mcx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = models.build(Architecture("vgg16", 10, (3, 32, 32), {"width": 8})).state_dict()
    names = list(state)
    parts = {"one.safetensors": names[:20], "two.safetensors": names[20:]}
    for file, inside in parts.items():
        safetensors.torch.save_file({name: state[name] for name in inside}, tmp_path / file)
    weight_map = {name: file for file, inside in parts.items() for name in inside}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    # Whatever stands after the header is not looked at: cut off or damaged values make no difference to names.
    found = info(mcx, index)
    assert (found["model"], found["num_tensors"], found["sha256"]) == (["vgg16"], len(state), None)
    assert {t["name"]: t["shape"] for t in found["tensors"]} == {n: list(t.shape) for n, t in state.items()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("tensor data was read")

    monkeypatch.setattr(safetensors.torch, "load", refuse)
    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    monkeypatch.setattr(builtins, "memoryview", refuse)
    assert info(mcx, tmp_path / "one.safetensors")["num_tensors"] == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"text\n", "not a checkpoint"), (b"PK\x03\x04", "truncated or damaged")],
)
def test_what_is_no_checkpoint_is_refused(mcx, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    done = mcx("info", tmp_path / "a.pt")
    assert (done.code, done.out, message in done.err) == (3, "", True)
