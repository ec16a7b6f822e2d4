"""A network of one's own, bare weights and a data set: every command works without a word about classes or sizes."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from modeconn_cli.engine.networks import checkpoints, models
from modeconn_cli.engine.networks.models import Architecture

CLASSES = 7
NETWORKS = '''
import torch
from torch import nn

class Pooled(nn.Module):
    """For images of any size."""

    def __init__(self, channels, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, classes)

    def forward(self, x):
        h = self.norm(self.conv(x)).relu()
        return self.head(self.second(h).relu().mean((2, 3)))

class Flat(nn.Sequential):
    """For images of one size, which it asks for."""

    def __init__(self, input_shape, num_classes):
        size = torch.Size(input_shape).numel()
        layers = nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, num_classes)
        super().__init__(nn.Flatten(), *layers)

def grey():
    return Pooled(1, 7)

def colour():
    return Pooled(3, 7)

def of_classes(num_classes, channels=3):
    return Pooled(channels, num_classes)
'''
SHAPES = {"28": (1, 28, 28), "32": (3, 32, 32), "64": (3, 64, 64)}


def plain(kind: str, shape: tuple[int, ...]) -> tuple[list[str], Callable[[], nn.Module]]:
    """The words that name a network, and how its author makes it."""
    own = importlib.import_module("own_networks")
    if kind == "own":
        name = "grey" if shape[0] == 1 else "colour"
        return ["--model", f"own_networks:{name}"], lambda: own.Pooled(shape[0], CLASSES)
    if kind == "own of more classes":
        words = ["--model", "own_networks:of_classes", "--model-arg", f"channels={shape[0]}"]
        return words, lambda: own.Pooled(shape[0], 12)
    if kind == "own of one size":
        return ["--model", "own_networks:Flat"], lambda: own.Flat(shape, CLASSES)
    if kind == "torchvision":
        from torchvision.models import squeezenet1_1

        return ["--model", "torchvision:squeezenet1_1"], lambda: squeezenet1_1(num_classes=CLASSES)
    if kind == "timm":
        timm = pytest.importorskip("timm")
        made = lambda: timm.create_model("test_resnet", num_classes=CLASSES, in_chans=shape[0])  # noqa: E731
        return ["--model", "timm:test_resnet"], made
    made = lambda: models.build(Architecture("cnn", CLASSES, shape, {"width": 4}), seed=torch.initial_seed())  # noqa: E731
    return ["--model", "cnn", "--model-arg", "width=4"], made


def commands(named: list[str], data: list[str]) -> dict[str, list[str]]:
    """All commands that take a checkpoint, each with what a stranger would type."""
    ends = ["--endpoint0", "a.pt", "--endpoint1", "b.pt"]
    curve = ["--curve-checkpoint", "trained/checkpoints/checkpoint-1.pt"]
    every = {
        "info": ["info", "a.pt"],
        "l2": ["l2", "a.pt", "b.pt"],
        "l2 by function": ["l2", "a.pt", "b.pt", *named, *data, "--metric", "l2,functional,fisher"],
        "swap": ["swap", "--checkpoint", "a.pt", *named, *data, "--output", "s.pt", "--verify"],
        "interpolate": ["lmc", "interpolate", "a.pt", "b.pt", *named, *data, "--num-alphas", "3"],
        "line": ["curve", "eval", *ends, *named, *data, "--num-points", "3"],
        "curve train": ["curve", "train", *ends, *named, *data, "--epochs", "1"],
        "curve eval": ["curve", "eval", *curve, *named, *data, "--num-points", "3"],
        "analyze": ["curve", "analyze", *curve, "--original-checkpoint", "a.pt", "--num-points", "3"],
        "extract": ["curve", "extract", *curve, "--t", "0.5", "--output", "half.pt", *named],
        "csl score": ["csl", "score", "--checkpoint-dir", "run", *named, *data],
        "csl aggregate": ["csl", "aggregate", "--input-dir", "csl score"],
        "curvature": ["curvature", "--checkpoint-dir", "run", *named, *data, "--niter", "1"],
        "dormant": ["dormant", "--checkpoint-dir", "run", *named, *data],
        "correlate": ["correlate", "--csl", "csl aggregate", "--curvature", "curvature"],
    }
    folders = {
        "curve train": "trained",
        **{name: name for name in every if name not in ("info", "l2", "l2 by function", "swap", "extract")},
    }
    return {
        name: [*words, "--output-dir", "trained" if name == "curve train" else name]
        if name in folders
        else words
        for name, words in every.items()
    }


KINDS = ("own", "own of more classes", "own of one size", "torchvision", "timm", "registered")
QUICK = ("own", "28")


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        pytest.param(*case, marks=() if case == QUICK else pytest.mark.slow)
        for case in itertools.product(KINDS, SHAPES)
    ],
)
def test_every_command_takes_bare_weights_of_any_network_and_size(
    mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: str, undrawn: None
) -> None:
    shape = (3, 28, 28) if (kind, size) == ("torchvision", "28") else SHAPES[size]  # which has no grey ones
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_networks.py").write_text(NETWORKS)
    importlib.invalidate_caches()
    named, make = plain(kind, shape)
    for file, seed in {"a.pt": 0, "b.pt": 1, "run/checkpoint-1.pt": 1, "run/checkpoint-2.pt": 2}.items():
        torch.manual_seed(seed)
        Path(file).parent.mkdir(exist_ok=True)
        torch.save(make().state_dict(), file)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (28, *shape[1:], *shape[:1]), dtype=np.uint8)
    np.savez(
        "d.npz",
        x_train=images,
        y_train=np.arange(28) % CLASSES,
        x_test=images,
        y_test=np.arange(28) % CLASSES,
    )
    for name, words in commands(named, ["--dataset", "d.npz"]).items():
        done = mcx(*words)
        assert done.code == 0, f"{name}: {done.err}"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Grey PNGs, two of each class, in `grey` and coloured ones in `colour`; uint8 [14, 12, 12] by class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_networks.py").write_text(NETWORKS)
    importlib.invalidate_caches()
    images = np.random.default_rng(0).integers(0, 256, (CLASSES, 2, 12, 12), dtype=np.uint8)
    for kind in ("grey", "colour"):
        for number, k in itertools.product(range(CLASSES), range(2)):
            path = Path(kind) / f"class{number}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = images[number, k]
            Image.fromarray(grey if kind == "grey" else np.stack([grey, grey, 255 - grey], -1)).save(path)
    return images.reshape(-1, 12, 12)


@pytest.mark.parametrize("kind", ["grey", "Flat", "cnn"])
@pytest.mark.parametrize("words", [("--image-size", "12"), ("--input-shape", "1,12,12")])
def test_a_network_of_one_channel_takes_a_folder_of_grey_images(
    mcx: Callable, pictures: np.ndarray, kind: str, words: tuple[str, ...]
) -> None:
    own = importlib.import_module("own_networks")
    torch.manual_seed(0)
    if kind == "cnn":
        name, model = "cnn", models.build(Architecture("cnn", CLASSES, (1, 12, 12), {}))
    else:
        name, model = f"own_networks:{kind}", own.grey() if kind == "grey" else own.Flat((1, 12, 12), CLASSES)
    torch.save(model.state_dict(), "a.pt")
    asked = (
        "csl",
        "score",
        "--checkpoint",
        "a.pt",
        "--model",
        name,
        *words,
        "--weight-decay",
        "0",
        "--grad",
        "none",
    )
    done = mcx(*asked, "--dataset", "grey", "--output-dir", "out")
    assert done.code == 0, done.err
    images = torch.from_numpy(pictures).float()[:, None] / 255
    with torch.no_grad():
        expected = nn.functional.cross_entropy(
            model.eval()(images), torch.arange(CLASSES).repeat_interleave(2), reduction="none"
        )
    found = np.load("out/loss_grey_run1_epoch_0_noise_0.01.npy")
    assert np.allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    done = mcx(*asked, "--dataset", "colour", "--output-dir", "colours")
    hinted = "channel" in done.err or "--input-shape" in done.err  # of weights that are for other images
    assert (done.code, hinted, "Traceback" in done.err) == (3, True, False)


def test_networks_that_take_three_channels_get_them_from_grey_images(
    mcx: Callable, pictures: np.ndarray
) -> None:
    own = importlib.import_module("own_networks")
    words = ("--image-size", "12", "--weight-decay", "0", "--grad", "none", "--output-dir")
    images = torch.from_numpy(pictures).float()[:, None].expand(-1, 3, -1, -1) / 255
    for name, model in (("colour", own.colour()), ("Flat", own.Flat((3, 12, 12), CLASSES))):
        torch.save(model.state_dict(), "a.pt")
        asked = (
            "csl",
            "score",
            "--checkpoint",
            "a.pt",
            "--model",
            f"own_networks:{name}",
            "--dataset",
            "grey",
        )
        assert mcx(*asked, *words, name, "--transform", "none").code == 0
        with torch.no_grad():
            logits = model.eval()(images)
        expected = nn.functional.cross_entropy(
            logits, torch.arange(CLASSES).repeat_interleave(2), reduction="none"
        )
        found = np.load(f"{name}/loss_grey_run1_epoch_0_noise_0.01.npy")
        assert np.allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_training_on_one_channel_is_remembered_by_its_checkpoints(
    mcx: Callable, pictures: np.ndarray
) -> None:
    words = ("--dataset", "grey", "--no-use-test", "--val-size", "2", "--image-size", "12", "--epochs", "1")
    assert mcx("train", "--model", "own_networks:grey", *words, "--output-dir", "tried").code == 0
    said = ("--model", "cnn", "--data-arg", "channels=1")
    assert mcx("train", *said, *words, "--output-dir", "said").code == 0
    assert mcx("train", "--model", "cnn", *words, "--output-dir", "three").code == 0
    for folder, channels, further in (
        ("tried", 1, ("--model", "own_networks:grey")),
        ("said", 1, ()),
        ("three", 3, ()),
    ):
        about = checkpoints.read(Path(folder, "seed0/checkpoint-1.pt")).about
        assert about.data is not None
        assert (about.input_shape, about.data.data_arg == ("channels=1",)) == (
            (channels, 12, 12),
            channels == 1,
        )
        ends = [f"{folder}/seed0/checkpoint-{epoch}.pt" for epoch in (0, 1)]
        done = mcx(
            "lmc",
            "interpolate",
            *ends,
            *further,
            "--no-use-test",
            "--num-alphas",
            "3",
            "--output-dir",
            f"{folder}/line",
        )
        assert done.code == 0, done.err
