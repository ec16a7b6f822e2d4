"""Swaps of networks whose units cannot be told apart easily, and outputs that are the command's own input."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from faults.commands import CASES

# Layers that are read twice, that are grouped, that are used twice, whose units something else orders.
NETS = """
import torch
from torch import nn
F = nn.functional


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x.flatten(1)).relu()
        return self.o(h + self.b(h).relu())


class Ordered(Residual):
    def forward(self, x):
        return self.o(torch.cumsum(self.b(self.a(x.flatten(1)).relu()).relu(), 1))


class Shared(Residual):
    def forward(self, x):
        return self.o(self.b(self.b(self.a(x.flatten(1)).relu()).relu()).relu())


class Weighted(Residual):
    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.arange(6.0))

    def forward(self, x):
        return self.o(self.b(self.a(x.flatten(1)).relu()).relu() * self.w)


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.d = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.b, self.n, self.o = nn.Conv2d(6, 6, 1, groups=2), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.n(self.b(self.d(self.a(x).relu()).relu())).relu()
        return self.o(h.mean((2, 3)))
"""
LAYERS = {
    "Residual": ("a", "b"), "Ordered": ("a", "b"), "Shared": ("a", "b"), "Weighted": ("a", "b"),
    "Grouped": ("a", "d", "b"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_c2_no_swap_of_an_odd_network_changes_its_function(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What is published answers as the original; what is not is refused with its reason, and nothing is written."""
    (tmp_path / "oddnets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(NETS, scope)
    torch.manual_seed(0)
    original, moved = scope[kind]().eval(), scope[kind]().eval()
    with (tmp_path / "weights.pt").open("wb") as stream:
        torch.save(original.state_dict(), stream)
    images = torch.randn(20, 1, 8, 8)
    moves = 0
    for layer in LAYERS[kind]:
        flags = ("--model", f"oddnets:{kind}", "--num-classes", "3", "--input-shape", "1,8,8")
        done = mcx("swap", "weights.pt", *flags, "--layer-name", layer, "--output", f"{layer}.pt", "-q")
        assert (done.code == 0) == (tmp_path / f"{layer}.pt").exists(), done.err
        if done.code:
            assert done.code in (2, 3, 4), done.err
            assert layer in done.err
            continue
        moved.load_state_dict(torch.load(f"{layer}.pt", weights_only=True)["model_state"])
        assert any(
            not torch.equal(a, b) for a, b in zip(original.parameters(), moved.parameters(), strict=True)
        )
        assert torch.allclose(original(images), moved(images), atol=1e-5)
        moves += 1
    assert moves, "not all of them are refused"


def linked(path: Path) -> dict[str, Path]:
    """The same file by other names."""
    soft, hard, folder = Path(f"soft{path.suffix}"), Path(f"hard{path.suffix}"), Path("folder")
    soft.symlink_to(path)
    os.link(path, hard)
    folder.symlink_to(path.parent)
    return {"itself": path, "soft link": soft, "hard link": hard, "folder": folder / path.name}


@pytest.mark.parametrize("command", [name for name, case in CASES.items() if not case.job])
def test_c4_no_command_writes_over_what_it_reads(mcx: Callable, here: Path, command: str) -> None:
    case = CASES[command]
    read = next(iter(case.inputs))
    ending = Path(case.into).suffix
    own = Path(f"input{ending}")  # named as the output has to be
    own.write_bytes(Path(read).read_bytes())
    words = [str(own) if word == read else word for word in case.words]
    for name, output in linked(own.absolute()).items():
        content = own.read_bytes()
        listed = sorted(here.rglob("*"))
        for overwrite in ((), ("--overwrite",)):
            done = mcx(*words, "--output", output, *overwrite)
            assert (done.code, done.out) == (5, ""), (name, done.err)
            assert own.read_bytes() == content
            assert "is the input itself" in done.err or ("exists" in done.err and not overwrite), done.err
        assert sorted(here.rglob("*")) == listed
