"""Checkpoints that are missing, damaged, hostile or something else, for every command that reads one."""

from __future__ import annotations

import argparse
import collections
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from attacks import archives, pickles

from faults.commands import CURVE, OWN, A, B
from modeconn_cli.engine.results import files

X, INTO = "x.pt", ["--output-dir", "out", "-q"]
READERS: dict[str, list[str]] = {
    "info": ["info", X],
    "l2": ["l2", A, X, "-q"],
    "swap": ["swap", X, *OWN, "--output", "out.pt", "-q"],
    "convert": ["convert", X, *OWN, "--layout", "mcx", "--output", "out.pt", "-q"],
    "curve train": ["curve", "train", A, X, *OWN, "--epochs", "1", *INTO],
    "curve eval": ["curve", "eval", X, B, *OWN, "--num-points", "3", *INTO],
    "curve analyze": [
        "curve", "analyze", "--curve-checkpoint", CURVE, "--original-checkpoint", X, *OWN, "--num-points", "3", *INTO
    ],
    "lmc interpolate": ["lmc", "interpolate", A, X, *OWN, "--num-alphas", "3", *INTO],
    "csl score": ["csl", "score", "--checkpoint", X, *OWN, "--dataset", "data.npz", *INTO],
    "curvature": ["curvature", "--checkpoint", X, *OWN, "--dataset", "data.npz", *INTO],
    "dormant": ["dormant", "--checkpoint", X, *OWN, "--dataset", "data.npz", *INTO],
}  # fmt: skip
QUICK = ("info", "l2", "csl score")
each_reader = pytest.mark.parametrize(
    "command", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in READERS]
)
# `info` says what a file holds and needs no network.
each_user = pytest.mark.parametrize(
    "command",
    [each if each == "csl score" else pytest.param(each, marks=pytest.mark.slow) for each in READERS if each != "info"],
)  # fmt: skip
Refused = Callable[..., str]


@pytest.fixture
def refused(mcx: Callable, here: Path) -> Refused:
    """A command that reads `x.pt` is one line and 3, and writes nothing; the line and its hint."""

    def refuse(command: str, *words: str) -> str:
        before = contents()
        done = mcx(*READERS[command], *words)
        assert (done.code, done.out) == (3, ""), done.err
        (line,) = [line for line in done.err.splitlines() if "error: " in line]
        assert line.startswith(f"mcx {command}: error: ")
        assert f"'{X}" in line
        assert "Traceback" not in done.err
        assert contents() == before
        return str(done.err)

    return refuse


def contents() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.suffix != ".pyc"
    }


def content() -> dict[str, Any]:
    found: dict[str, Any] = torch.load(A, weights_only=True)
    return found


def write(value: Any) -> None:
    with Path(X).open("wb") as stream:
        torch.save(value, stream)


def with_state(**changed: torch.Tensor | None) -> dict[str, Any]:
    """A checkpoint some of whose tensors are others, or are left out; `__` stands for the dot of a name."""
    whole = content()
    state = whole["model_state"] | {name.replace("__", "."): tensor for name, tensor in changed.items()}
    return whole | {"model_state": {name: tensor for name, tensor in state.items() if tensor is not None}}


@each_reader
def test_b1_b2_what_is_not_there_or_not_whole_is_refused(refused: Refused, command: str) -> None:
    assert f"'{X}' does not exist" in refused(command)
    Path(X).write_bytes(b"")
    assert f"'{X}' is empty (0 bytes)" in refused(command)
    data = Path(A).read_bytes()
    for percent in (1, 10, 50, 99):
        Path(X).write_bytes(data[: len(data) * percent // 100])
        assert "truncated or damaged" in refused(command)
    Path(X).unlink()
    if command != "l2":  # which takes the folder of a run
        Path(X).mkdir()
        assert f"'{X}' is a directory, not a checkpoint" in refused(command)


@each_reader
def test_b3_a_flipped_bit_of_a_tensor_is_refused(refused: Refused, command: str) -> None:
    data = Path(A).read_bytes()
    tensor = content()["model_state"]["1.weight"].numpy().tobytes()
    assert data.count(tensor) == 1
    Path(X).write_bytes(archives.flipped(data, data.find(tensor) + 40, 5))
    assert "damaged: CRC mismatch" in refused(command)


@each_reader
def test_b4_b6_no_command_runs_what_a_file_asks_for(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = Path("marker").absolute()
    for legacy in (False, True):
        pickles.saved(Path(X), content() | {"extra": pickles.shell(marker)}, legacy=legacy)
        assert "refused: contains 'posix.system' (code)" in refused(command)
    assert not marker.exists()


@each_user
def test_b5_plain_data_beside_the_weights_is_no_hindrance(mcx: Callable, here: Path, command: str) -> None:
    beside = {
        "args": argparse.Namespace(path=Path("a")), "best": np.float64(0.5), "history": collections.defaultdict(list)
    }  # fmt: skip
    write(content() | beside)
    done = mcx(*READERS[command])
    assert done.code == 0, done.err


@each_reader
def test_b5_a_whole_network_is_refused_with_the_way_out(refused: Refused, command: str) -> None:
    write(torch.nn.Linear(2, 2))
    said = refused(command)
    assert "torch.nn.modules.linear.Linear" in said
    assert "torch.save(model.state_dict()" in said


OTHERS = {
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "an HTML page": b"<!DOCTYPE html><html></html>",
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "a gzip archive": b"\x1f\x8b\x08" + bytes(40),
    "a text file": b"epoch 1\n",
    "a TorchScript archive": archives.zipped({"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02)."}),
}


@each_reader
def test_b7_what_it_is_instead_is_said(refused: Refused, command: str) -> None:
    for words, data in OTHERS.items():
        Path(X).write_bytes(data)
        assert words in refused(command)


LAYOUTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state},
    "net": lambda state: {"net": state, "acc": 0.5},
    "module.": lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    "_orig_mod.": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "model.": lambda state: {
        "pytorch-lightning_version": "2.4.0", "state_dict": {f"model.{name}": t for name, t in state.items()}
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", [*LAYOUTS, "safetensors"])
def test_b8_every_layout_is_the_same_network_and_is_named(mcx: Callable, here: Path, layout: str) -> None:
    if layout == "safetensors":
        Path(X).write_bytes(safetensors.torch.save(content()["model_state"]))
    else:
        write(LAYOUTS[layout](content()["model_state"]))
    done = mcx("l2", A, X, *OWN, "--include-buffers", "-v")
    assert done.code == 0, done.err
    assert "Total L2 distance:      0.000000" in done.out
    (said,) = [line for line in done.err.splitlines() if line.startswith(f"'{X}': weights are ")]
    assert ("the file itself" if layout in ("bare", "safetensors", "_orig_mod.") else layout) in said


@each_user
def test_b8_every_command_reads_a_layout_of_others(mcx: Callable, here: Path, command: str) -> None:
    write(content() | {"model_state": LAYOUTS["module."](content()["model_state"])["model"]})
    done = mcx(*READERS[command])
    assert done.code == 0, done.err


@each_reader
def test_b9_several_entries_of_weights_or_none_are_listed(refused: Refused, command: str) -> None:
    state = content()["model_state"]
    write({"generator": state, "critic": {name: tensor + 1 for name, tensor in state.items()}})
    said = refused(command)
    assert "'generator', 'critic'" in said
    assert "--state-key" in said
    write({"losses": [0.5], "note": "x"})
    said = refused(command)
    assert "losses" in said
    assert "note" in said


@each_user
def test_b10_what_does_not_fit_the_network_is_counted_with_both_shapes(
    refused: Refused, command: str
) -> None:
    own = OWN if command == "l2" else []
    write(with_state(**{"4__weight": torch.ones(5, 6), "4__bias": torch.ones(5)}))
    said = refused(command, *own)
    for words in ("4.weight", "(5, 6)", "(3, 6)"):
        assert words in said
    write(with_state(**{"4__bias": None, "5__bias": torch.ones(3)}))
    said = refused(command, *own)
    assert "4.bias" in said
    assert "5.bias" in said or command == "curve analyze"  # which compares what the curve moves


@each_user
def test_b11_numbers_that_are_none_are_refused_with_their_layers(refused: Refused, command: str) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        write(with_state(**{"1__weight": torch.full((6, 64), bad)}))
        said = refused(command)
        assert "1.weight" in said
        assert "--allow-nonfinite" in said


@each_user
def test_b11_zeros_are_numbers(mcx: Callable, here: Path, command: str) -> None:
    write(with_state(**{"1__weight": torch.zeros(6, 64), "4__weight": torch.full((3, 6), 1e-42)}))
    done = mcx(*READERS[command])
    assert done.code == 0, done.err


@each_reader
def test_b12_a_tensor_without_values_is_refused(refused: Refused, command: str) -> None:
    write(with_state(**{"1__weight": torch.ones(6, 64, device="meta")}))
    assert "1.weight is a meta tensor without values" in refused(command)


@pytest.fixture
def little_memory() -> Any:
    """A few hundred megabytes more than this process has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (400 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def one(begin: int, end: int, shape: str = "[2]", name: str = "a") -> str:
    return f'"{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}'


def header(text: str, size: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + bytes(size)


ABSURD = {
    "length 2⁶³": (1 << 63).to_bytes(8, "little") + b"{}",
    "length of all": b"\xff" * 8 + b"{}",
    "overlap": header("{" + one(0, 8) + "," + one(4, 12, name="b") + "}", 12),
    "hole": header("{" + one(0, 8) + "," + one(12, 20, name="b") + "}", 20),
    "a key twice": header("{" + one(0, 8) + "," + one(8, 16) + "}", 16),
    "cut off": header("{" + one(0, 8) + "}", 4),
    "too much": header("{" + one(0, 8) + "}", 9),
    "negative": header("{" + one(-8, 0) + "}", 8),
    "another shape": header("{" + one(0, 8, "[3]") + "}", 8),
    "10¹² elements": header("{" + one(0, 8, "[1000000000000]") + "}", 8),
    "2⁹⁶ elements": header("{" + one(0, 0, "[4294967296,4294967296,4294967296]") + "}"),
    "nested": header('{"a":' * 20_000),
    "a list": header("[1,2]"),
}


@each_reader
def test_b13_absurd_safetensors_are_refused_within_little_memory(
    refused: Refused, little_memory: None, command: str
) -> None:
    for data in ABSURD.values():
        Path(X).write_bytes(data)
        refused(command)


@each_reader
def test_b14_a_bomb_is_refused_before_memory_is_taken(
    refused: Refused, little_memory: None, command: str
) -> None:
    members = {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(50_000_000)}
    Path(X).write_bytes(archives.zipped(members, zipfile.ZIP_DEFLATED))
    refused(command)
    for elements in (10**12, 1 << 62):
        pickles.in_zip(Path(X), pickles.entry(pickles.tensor_of(elements, (elements,), (1,))), data=bytes(4))
        refused(command)
    write({"w": torch.ones(1).expand(10**6, 10**6)})
    assert "1,000,000,000,000 elements" in refused(command)


@each_user
def test_b15_a_file_that_is_replaced_while_it_is_read_is_one_or_the_other(
    mcx: Callable, here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """By a file of the same names and shapes, after the first time that it was opened."""
    made: list[dict[str, bytes]] = []
    for source in (A, B):
        shutil.copy(source, X)
        assert mcx(*READERS[command]).code == 0
        made.append(results())
    shutil.copy(A, X)
    opened = Path.open

    def replacing(path: Path, *words: Any, **more: Any) -> Any:
        stream = opened(path, *words, **more)
        if path.name == X and not Path("replaced").exists():
            shutil.copy(B, "new.pt")
            Path("new.pt").replace(X)
            Path("replaced").touch()
        return stream

    monkeypatch.setattr(Path, "open", replacing)
    done = mcx(*READERS[command])
    assert Path("replaced").exists()
    if done.code == 0:
        assert results() in made
    else:
        assert done.code == 3
        assert "changed" in done.err


def results() -> dict[str, bytes]:
    """The arrays and networks that a command has made, which are then removed."""
    suffixes = (".npy", ".npz", ".pt")
    found = {
        str(path): path
        for path in Path().glob("out*/**/*")
        if path.suffix in suffixes and ".mcx" not in path.parts
    }
    if Path("out.pt").exists():
        state = torch.load("out.pt", weights_only=True)["model_state"]
        data = {"out.pt": files.tensor_bytes(state)}
    else:
        data = {
            name: path.read_bytes() for name, path in found.items() if path.name != "endpoint_l2_distance.txt"
        }
    for path in Path().glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return data
