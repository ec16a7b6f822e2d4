"""Every command that makes something of files, on the smallest study, and how each of its inputs is exchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeconn_cli.cli import app

NET = """
from torch import nn


def net(num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, num_classes))
"""


def _data(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    return {
        "x_train": images, "y_train": np.arange(60) % 3,
        "x_test": images[:30], "y_test": np.arange(30) % 3,
    }  # fmt: skip


TRAIN = ["train", "--model", "mixnet:net", "--dataset", "data.npz", "--epochs", "2", "--save-freq", "1", "-q"]


def make_study(folder: Path) -> None:
    """Files of every kind that commands read, in a new folder."""
    folder.mkdir()
    (folder / "mixnet.py").write_text(NET)
    np.savez(folder / "data.npz", **_data(0))
    random = np.random.default_rng(1)
    np.save(folder / "order.npy", np.array([2, 0, 1]))
    rows = "".join(f"{k},{random.random():.3f}\n" for k in range(60))
    (folder / "memo.csv").write_text("sample_id,memorization\n" + rows)
    make_evaluations(folder / "along")
    (folder / "flags.csv").write_text("sample_id,odd\n" + "".join(f"{k},{k % 2}\n" for k in range(60)))
    with within(folder):
        for words in (
            [*TRAIN, "--seeds", "0,1", "--output-dir", "runs"],
            ["swap", "--checkpoint", "runs/seed0/checkpoint-2.pt", "--output", "swapped.pt", "-q"],
            ["curve", "train", "--endpoint0", "runs/seed0/checkpoint-2.pt", "--endpoint1", "swapped.pt",
             "--model", "mixnet:net", "--epochs", "1", "--output-dir", "curve", "-q"],
            ["curve", "analyze", "--curve-checkpoint", "curve/checkpoints/checkpoint-1.pt", "--output-dir",
             "analysis", "-q"],
            ["csl", "score", "--checkpoint-dir", "runs/seed0", "--model", "mixnet:net", "--output-dir", "losses",
             "-q"],
            ["csl", "aggregate", "--input-dir", "losses", "--output-dir", "csl", "-q"],
        ):  # fmt: skip
            if words[0] in ("swap",):
                words = [*words, "--model", "mixnet:net"]
            assert app.main(words) == 0, words


@contextmanager
def within(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def other_data(path: Path) -> None:
    """One pixel of one image."""
    arrays = _data(0)
    arrays["x_train"][7, 0, 3, 3] ^= 1
    np.savez(path, **arrays)


def other_weights(path: Path) -> None:
    """One weight of one layer, of every point of a curve."""
    content = torch.load(path, weights_only=True)
    for state in content.get("control_points", [content.get("model_state")]):
        next(iter(state.values())).view(-1)[0] += 1e-3
    with path.open("wb") as stream:
        torch.save(content, stream)


def other_order(path: Path) -> None:
    np.save(path, np.array([1, 0, 2]))


def other_text(path: Path) -> None:
    """Another number in a table."""
    lines = path.read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0] + ",1"
    lines[4] = lines[4].rpartition(",")[0] + ",0"
    path.write_text("\n".join(lines) + "\n")


def other_metadata(path: Path) -> None:
    document = json.loads(path.read_text())
    first, second = document["neuron_pairs"][0]
    used = {first, second}
    document["neuron_pairs"][0] = [first, next(k for k in range(6) if k not in used)]
    path.write_text(json.dumps(document))


def other_arrays(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["normalized_l2"] = arrays["normalized_l2"] + 1e-3
    np.savez(path, **arrays)


def other_series(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["te_nll"][1] += 1e-3
    np.savez(path, **arrays)


def make_evaluations(folder: Path) -> None:
    """Two evaluations of a path by hand, as those of the original scripts: without a summary."""
    for seed in (0, 1):
        place = folder / f"seed{seed}"
        place.mkdir(parents=True)
        series = {name: np.array([1.0, 2.0 + seed, 1.5]) for name in ("tr_nll", "tr_err", "te_nll", "te_err")}
        np.savez(place / "curve.npz", ts=np.array([0, 0.5, 1]), dl=np.array([0, 1.0, 1.0]), **series)


@dataclass(frozen=True)
class Case:
    """A command, and what it reads: its file and how that is exchanged."""

    words: list[str]
    inputs: dict[str, Callable[[Path], None]]
    into: str  # what it writes
    job: bool = True  # in a folder, which may be left unfinished

    def run(self) -> int:
        flag = "--output-dir" if self.job else "--output"
        return app.main([*self.words, flag, self.into])


A, B, OWN = "runs/seed0/checkpoint-2.pt", "runs/seed1/checkpoint-2.pt", ["--model", "mixnet:net"]
CURVE = "curve/checkpoints/checkpoint-1.pt"
CASES = {
    "train": Case(TRAIN, {"data.npz": other_data}, "out"),
    "train-tasks": Case(
        [*TRAIN, "--classes-per-task", "1", "--epochs-per-task", "1", "--class-order", "order.npy",
         "--track-samples", "--memo-scores", "memo.csv", "--epochs", "3"],
        {"data.npz": other_data, "order.npy": other_order, "memo.csv": other_text}, "out",
    ),
    "curve train": Case(
        ["curve", "train", A, B, *OWN, "--epochs", "1", "-q"],
        {A: other_weights, B: other_weights, "data.npz": other_data}, "out",
    ),
    "curve eval": Case(
        ["curve", "eval", CURVE, *OWN, "--num-points", "3", "-q"],
        {CURVE: other_weights, "data.npz": other_data}, "out",
    ),
    "curve eval line": Case(
        ["curve", "eval", A, B, *OWN, "--num-points", "3", "-q"],
        {A: other_weights, B: other_weights, "data.npz": other_data}, "out",
    ),
    "curve plane": Case(
        ["curve", "plane", A, B, "swapped.pt", *OWN, "--grid-points", "2", "-q"],
        {A: other_weights, B: other_weights, "swapped.pt": other_weights, "data.npz": other_data}, "out",
    ),
    "curve plane run": Case(
        ["curve", "plane", "--run", "runs/seed0", *OWN, "--grid-points", "2", "-q"],
        {A: other_weights, "data.npz": other_data}, "out",
    ),
    "curve compare": Case(
        ["curve", "compare", "along/seed0", "along/seed1", "-q"],
        {"along/seed0/curve.npz": other_series, "along/seed1/curve.npz": other_series}, "out",
    ),
    "curve analyze": Case(
        ["curve", "analyze", "--curve-checkpoint", CURVE, "--original-checkpoint", A, "--swap-metadata",
         "swapped_metadata.json", *OWN, "--num-points", "3", "-q"],
        {CURVE: other_weights, A: other_weights, "swapped_metadata.json": other_metadata}, "out",
    ),
    "curve extract": Case(
        ["curve", "extract", "--curve-checkpoint", CURVE, "--t", "0.5", *OWN, "-q"],
        {CURVE: other_weights, "data.npz": other_data}, "out.pt", job=False,
    ),
    "lmc run": Case(
        ["lmc", "run", *OWN, "--dataset", "data.npz", "--k1", "0", "--k2", "1", "--num-alphas", "3", "-q"],
        {"data.npz": other_data}, "out",
    ),
    "lmc interpolate": Case(
        ["lmc", "interpolate", A, "swapped.pt", *OWN, "--permutation", "swapped_metadata.json", "--num-alphas", "3",
         "-q"],
        {A: other_weights, "swapped.pt": other_weights, "swapped_metadata.json": other_metadata,
         "data.npz": other_data}, "out",
    ),
    "swap": Case(
        ["swap", A, *OWN, "--verify", "-q"], {A: other_weights, "data.npz": other_data}, "out.pt", job=False
    ),
    "align": Case(
        ["align", B, "--to", A, *OWN, "-q"], {A: other_weights, B: other_weights}, "out.pt", job=False
    ),
    "align several": Case(
        ["align", f"b={B}", "swapped.pt", "--to", A, "--method", "activations", *OWN, "-q"],
        {A: other_weights, B: other_weights, "data.npz": other_data}, "out",
    ),
    "merge": Case(
        ["merge", A, B, "--align", "weights", *OWN, "-q"],
        {A: other_weights, B: other_weights, "data.npz": other_data}, "out.pt", job=False,
    ),
    "l2": Case(
        ["l2", A, B, *OWN, "--metric", "l2,functional", "-q"],
        {A: other_weights, B: other_weights, "data.npz": other_data}, "out.json", job=False,
    ),
    "csl score": Case(
        ["csl", "score", "--checkpoint-dir", "runs/seed0", *OWN, "--vog", "-q"],
        {A: other_weights, "data.npz": other_data}, "out",
    ),
    "csl aggregate --from": Case(
        ["csl", "aggregate", "--from", "memo.csv", "--export", "feldman", "-q"], {"memo.csv": other_text}, "out"
    ),
    "curvature": Case(
        ["curvature", "--checkpoint-dir", "runs/seed0", *OWN, "-q"],
        {A: other_weights, "data.npz": other_data}, "out",
    ),
    "dormant": Case(
        ["dormant", "--checkpoint-dir", "runs/seed0", *OWN, "-q"],
        {A: other_weights, "data.npz": other_data}, "out",
    ),
    "memo": Case(
        ["memo", "--model", "mixnet:net", "--dataset", "data.npz", "--models", "5", "--stack", "2", "--epochs", "1",
         "-q"],
        {"data.npz": other_data}, "out",
    ),
    "correlate": Case(
        ["correlate", "--csl", "csl", "--memo", "memo.csv", "--flags", "flags.csv", "-q"],
        {"memo.csv": other_text, "flags.csv": other_text}, "out",
    ),
    "animate": Case(
        ["animate", "--data", "analysis/layer_distances_along_curve.npz", "-q"],
        {"analysis/layer_distances_along_curve.npz": other_arrays}, "out.gif", job=False,
    ),
    "convert": Case(["convert", A, "--layout", "mcx", "-q"], {A: other_weights}, "out.pt", job=False),
}  # fmt: skip
