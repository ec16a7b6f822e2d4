"""Chains of straight lines through given networks, as `connect.py` of dnn-mode-connectivity measured them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modeconn_cli import api
from modeconn_cli.cli import app

MIXED = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))
        self.register_buffer("shift", torch.zeros(64))
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.norm(x.flatten(1)) * self.scale + self.shift)
"""
SERIES = ("tr_nll", "tr_err", "te_nll", "te_err", "l2_norm")


@pytest.fixture(scope="module")
def three(networks: Path) -> list[Path]:
    return [
        networks / name
        for name in ("seed0/checkpoint-4.pt", "seed0/checkpoint-0.pt", "seed1/checkpoint-4.pt")
    ]


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three trained networks of one's own, with batch norm, a parameter and a buffer beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "chainnet.py").write_text(MIXED)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (90, 1, 8, 8), dtype=np.uint8)
    np.savez(
        tmp_path / "d.npz",
        x_train=images,
        y_train=np.arange(90) % 3,
        x_test=images[:30],
        y_test=np.arange(30) % 3,
    )
    words = [
        "--model",
        "chainnet:Net",
        "--dataset",
        "d.npz",
        "--seeds",
        "0,1,2",
        "--epochs",
        "2",
        "--save-freq",
        "2",
    ]
    assert app.main(["train", *words, "--output-dir", "runs", "-q"]) == 0
    files = [tmp_path / f"runs/seed{k}/checkpoint-2.pt" for k in range(3)]
    for k, path in enumerate(files):
        content = torch.load(path, weights_only=True)
        content["model_state"]["shift"] += k * k
        with path.open("wb") as stream:
            torch.save(content, stream)
    return files


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "curve.npz") as file:
        return dict(file)


def test_a_chain_is_the_lines_between_its_networks(mcx: Callable, three: list[Path], tmp_path: Path) -> None:
    done = mcx("curve", "eval", *three, "--num-points", "5", "--output-dir", tmp_path / "chain", "--json")
    assert done.code == 0, done.err
    found = arrays(tmp_path / "chain")
    assert found["ts"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    summary = json.loads(done.out)
    assert summary["curve"] == "polychain"
    for k in (0, 1):
        folder = tmp_path / str(k)
        line = mcx("curve", "eval", *three[k : k + 2], "--num-points", "3", "--output-dir", folder, "--json")
        part = arrays(folder)
        for name in SERIES[:4]:
            assert found[name][2 * k : 2 * k + 3].tolist() == part[name].tolist()
        assert np.allclose(found["l2_norm"][2 * k : 2 * k + 3], part["l2_norm"], rtol=1e-12)
        assert np.allclose(found["dl"][2 * k + 1 : 2 * k + 3], part["dl"][1:], rtol=1e-12)
        alone = json.loads(line.out)
        assert summary["segments"][k] == alone["barriers"]
        assert summary["endpoints"][k : k + 2] == alone["endpoints"]
    table = mcx("curve", "eval", *three, "--num-points", "5", "--output-dir", tmp_path / "chain").out
    assert "Barriers between the networks of the chain (max_gap)" in table
    assert "1 to 2" in table


def test_each_network_of_a_chain_has_its_own_statistics_and_buffers(
    mcx: Callable, mixed: list[Path], tmp_path: Path
) -> None:
    """Of a network that is not registered: statistics of batch norm and other buffers change from each to the next."""
    words = ("--model", "chainnet:Net", "--dataset", "d.npz", "--bn", "lerp")
    done = mcx("curve", "eval", *mixed, *words, "--num-points", "9", "--output-dir", "chain", "--json")
    assert done.code == 0, done.err
    found, summary = arrays(tmp_path / "chain"), json.loads(done.out)
    for k in (0, 1):
        folder = tmp_path / str(k)
        assert (
            mcx(
                "curve", "eval", *mixed[k : k + 2], *words, "--num-points", "5", "--output-dir", folder, "-q"
            ).code
            == 0
        )
        for name in SERIES[:4]:
            assert found[name][4 * k : 4 * k + 5].tolist() == arrays(folder)[name].tolist(), name
    assert [each["te_nll"] for each in summary["endpoints"]] == found["te_nll"][[0, 4, 8]].tolist()
    curve = api.curve(*mixed, model="chainnet:Net", dataset="d.npz", bn="lerp")
    assert float(curve.at(0.75).shift.mean()) == pytest.approx(2.5)
    again = curve.evaluate(tmp_path / "api", num_points=9, threads=1)
    assert again.result.statistics["te_nll"].max == float(found["te_nll"].max())
    own = torch.load(mixed[1], weights_only=True)["model_state"]
    assert all(torch.equal(tensor, own[name]) for name, tensor in curve.at(0.5).state_dict().items())


def test_a_network_of_a_chain_is_extracted_bit_for_bit(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    ends = [networks / f"seed{k}/checkpoint-{e}.pt" for k, e in ((0, 4), (1, 4), (0, 0), (1, 0))]
    flags = [word for path in ends for word in ("--ckpt", path)]
    for k, path in enumerate(ends):
        output = tmp_path / f"{k}.pt"
        done = mcx("curve", "extract", *flags, "--t", repr(k / 3), "--output", output)
        assert done.code == 0, done.err
        found, own = (torch.load(each, weights_only=True)["model_state"] for each in (output, path))
        assert all(torch.equal(found[name], own[name]) for name in own)


REFUSED = {
    "positions": (
        "--num-points 6 has no position at each of the 3 networks of a chain",
        "use 5: 2 a segment",
    ),
    "permutation": ("--permutation has no effect along a chain", ""),
    "repair": ("--bn repair is between two networks", "use --bn recompute"),
    "endpoint": ("--endpoint0 has no effect with --chain", ""),
    "two": ("a chain is of three networks or more", "--chain A,B,C"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_chain_has_no_meaning_for_is_refused(
    mcx: Callable, three: list[Path], tmp_path: Path, kind: str
) -> None:
    more: dict[str, tuple[str | Path, ...]] = {
        "positions": ("--num-points", "6"),
        "permutation": ("--permutation", three[0]),
        "repair": ("--bn", "repair"),
        "endpoint": ("--endpoint0", three[0]),
    }
    words = three if kind != "two" else ["--ckpt", three[0], "--ckpt", three[1]]
    done = mcx("curve", "eval", *words, *more.get(kind, ()), "--output-dir", tmp_path / "x")
    assert (done.code, done.out) == (2, "")
    assert all(each in done.err for each in REFUSED[kind]), done.err
    assert not (tmp_path / "x").exists()


def test_networks_of_two_kinds_make_no_chain(mcx: Callable, three: list[Path], tmp_path: Path) -> None:
    content = torch.load(three[1], weights_only=True)
    content["model_state"] = {name: tensor[:1] for name, tensor in content["model_state"].items()}
    with (tmp_path / "odd.pt").open("wb") as stream:
        torch.save(content, stream)
    done = mcx("curve", "eval", three[0], tmp_path / "odd.pt", three[2], "--output-dir", tmp_path / "x")
    assert (done.code, "differ in shape between" in done.err, "odd.pt" in done.err) == (3, True, True)


def test_a_network_twice_in_a_row_is_said(mcx: Callable, three: list[Path], tmp_path: Path) -> None:
    done = mcx(
        "curve", "eval", three[0], three[0], three[2], "--num-points", "3", "--output-dir", tmp_path, "--json"
    )
    assert (done.code, "which follow each other, are equal" in done.err) == (0, True)
    assert arrays(tmp_path)["dl"][1] == 0
    again = mcx(
        "curve", "eval", three[0], three[2], three[0], "--num-points", "3", "--output-dir", tmp_path / "x"
    )
    assert (again.code, "are equal" in again.err) == (0, False)
