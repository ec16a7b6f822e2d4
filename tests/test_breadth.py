"""Each registered network goes through train, swap, l2, curve and extract, on synthetic data, with its flags only
given once: afterwards the checkpoints know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modeconn_cli.engine.registry import MODELS

# Small members of the families; every registered name is here.
NETWORKS: dict[str, tuple[str, ...]] = {
    "mlp": ("--model", "mlp"),
    "cnn": ("--model", "cnn", "--model-arg", "width=4,norm=batch"),
    "lenet5": ("--model", "LeNet5"),
    "lenet5-max": ("--model", "LeNet5-max"),
    "vgg16": ("--model", "VGG16", "--model-arg", "width=4"),
    "vgg19": ("--model", "vgg19", "--model-arg", "width=4"),
    "vgg16_bn": ("--model", "VGG16BN", "--model-arg", "width=4"),
    "vgg19_bn": ("--model", "vgg19-bn", "--model-arg", "width=4"),
    "garipov-vgg16bn": ("--model", "garipov-vgg16bn", "--model-arg", "width=4"),
    "garipov-vgg19bn": ("--model", "garipov_vgg19bn", "--model-arg", "width=4"),
    "convfc": ("--model", "ConvFC"),
    "preresnet20": ("--model", "PreResNet8"),
    "preresnet110": ("--model", "preresnet47"),
    "preresnet164": ("--model", "preresnet56"),
    "wrn28-10": ("--model", "WideResNet10x1"),
    "resnet18": ("--model", "resnet18", "--model-arg", "width=4"),
    "resnet34": ("--model", "resnet34", "--model-arg", "width=4"),
    "csl-resnet18": ("--model", "csl-resnet18", "--model-arg", "width=4"),
    "incremental-resnet18": ("--model", "incremental-resnet18", "--model-arg", "width=4"),
    "simple-cifar10-cnn": ("--model", "SimpleCIFAR10CNN"),
    "torchvision": ("--model", "torchvision:shufflenet_v2_x0_5"),
}


def test_every_registered_network_is_tried() -> None:
    assert set(MODELS) <= set(NETWORKS)


# One of each family with the other tests; those that take longest go with the long ones.
LONG = {
    "preresnet110",
    "preresnet164",
    "resnet34",
    "csl-resnet18",
    "vgg19_bn",
    "garipov-vgg19bn",
    "vgg19",
    "incremental-resnet18",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in NETWORKS]
)
def test_a_network_goes_through_the_whole_thread(mcx, name: str, tmp_path: Path) -> None:
    size = "size=28,channels=1" if name.startswith("lenet5") else "size=32,channels=3"
    data = ("--dataset", "synthetic", "--data-arg", f"train=12,test=6,{size},classes=3")
    ends = tmp_path / "ends"
    words = (*NETWORKS[name], *data, "--epochs", "1", "--batch-size", "6", "--seeds", "0", "-q")
    assert mcx("train", *words, "--output-dir", ends).code == 0
    seed0 = ends / "seed0/checkpoint-1.pt"
    swapped = tmp_path / "swapped/checkpoint-1.pt"
    done = mcx("swap", "--checkpoint", seed0, "--output", swapped, "--mirror", "--verify")
    assert done.code == 0, done.err
    assert "Equivalent:             yes" in done.out
    distance = json.loads(mcx("l2", seed0, swapped, "--json").out)
    assert distance["total_l2"] > 0
    folder = tmp_path / "curve"
    words = ("--endpoint0", seed0, "--endpoint1", swapped, "--epochs", "1", "--batch-size", "6", "-q")
    assert mcx("curve", "train", *words, "--output-dir", folder).code == 0
    curve = folder / "checkpoints/checkpoint-1.pt"
    point = tmp_path / "point.pt"
    assert mcx("curve", "extract", "--curve-checkpoint", curve, "--t", "1", "--output", point).code == 0
    # The end of the curve is the swapped network, bit for bit.
    assert json.loads(mcx("l2", swapped, point, "--json").out)["total_l2"] == 0
    metadata = ("--swap-metadata", swapped.with_name("checkpoint-1_metadata.json"))
    done = mcx(
        "curve", "analyze", "--curve-checkpoint", curve, *metadata, "--output-dir", tmp_path / "a", "--json"
    )
    assert done.code == 0, done.err
    layers = json.loads(done.out)["layers"]
    assert all(layer["modulo_swap_end"] == 0 for layer in layers)
