"""Every registered network: parameter counts, key names, reproducible initialisation."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from modeconn_cli.cli.words import parse
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.factories import arguments, words_of
from modeconn_cli.engine.networks import models, weights
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.registry import MODELS
from modeconn_cli.engine.settings.base import specs
from modeconn_cli.engine.settings.shared import ModelSettings

DATA = Path(__file__).parent.parent / "data"

COUNTS = {
    "mlp": 8_970,
    "cnn": 22_954,
    "lenet5": 61_706,
    "lenet5-max": 61_706,
    "vgg16": 15_245_130,
    "vgg19": 20_554_826,
    "vgg16_bn": 15_253_578,
    "vgg19_bn": 20_565_834,
    "garipov-vgg16bn": 15_253_578,
    "garipov-vgg19bn": 20_565_834,
    "convfc": 2_422_634,
    "preresnet20": 272_282,
    "preresnet110": 1_146_842,
    "preresnet164": 1_703_258,
    "wrn28-10": 36_489_290,
    "resnet18": 11_173_962,
    "csl-resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "incremental-resnet18": 11_178_762,
    "simple-cifar10-cnn": 1_102_410,
}


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_are_pinned(name: str) -> None:
    with torch.device("meta"):
        model = models.build(Architecture(name, 10, MODELS[name].input_shape, {})).eval()
        assert model(torch.zeros(2, *MODELS[name].input_shape)).shape == (2, 10)
    assert weights.count(dict(model.named_parameters())) == COUNTS[name]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("VGG16BN", "vgg16_bn"),
        ("PreResNet56", "preresnet56"),
        ("WideResNet28x10", "wrn28-10"),
        ("WRN16-4", "wrn16-4"),
        ("Incremental_ResNet18", "incremental-resnet18"),
        ("LeNet-5", "lenet5"),
        ("torchvision:resnet18", "torchvision:resnet18"),
    ],
)
def test_names_are_matched_without_case_dashes_and_underscores(typed: str, name: str) -> None:
    assert models.architecture(ModelSettings(model=typed, num_classes=10)).model == name


@pytest.mark.parametrize("name", ["preresnet9", "preresnet46", "wrn12-2"])
def test_depths_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="there is no"):
        models.build(Architecture(name, 10, (3, 32, 32), {}))


def test_garipovs_batch_norm_vgg_skips_the_second_half_of_each_block() -> None:
    """His forward pairs layers with one activation per convolution (issue 2 of dnn-mode-connectivity)."""
    ours, theirs = (
        models.build(Architecture(name, 10, (3, 32, 32), {"width": 4})).eval()
        for name in ("vgg16_bn", "garipov-vgg16bn")
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    y = x
    for block in theirs.layer_blocks:  # type: ignore[union-attr]
        layers = list(block)
        for layer in layers[: len(layers) // 2]:
            y = torch.relu(layer(y))
        y = torch.nn.functional.max_pool2d(y, 2)
    assert torch.equal(theirs(x), theirs.classifier(y.flatten(1)))  # type: ignore[operator]
    assert not torch.allclose(theirs(x), ours(x))


@pytest.mark.parametrize(("name", "key"), [("vgg16", "VGG16"), ("vgg16_bn", "VGG16BN"), ("vgg19", "VGG19")])
def test_vggs_have_the_key_names_and_shapes_of_dnn_mode_connectivity(name: str, key: str) -> None:
    expected = json.loads((DATA / "garipov_vgg_keys.json").read_text())[key]["base"]
    state = models.build(Architecture(name, 10, (3, 32, 32), {})).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected
    assert list(state) == list(expected)


def test_a_vgg_refuses_images_that_vanish_in_its_pooling_steps() -> None:
    with pytest.raises(SettingsError, match="cannot take 8 x 8"):
        models.build(Architecture("vgg16", 10, (1, 8, 8), {}))


def test_the_same_seed_gives_the_same_weights() -> None:
    arch = Architecture("cnn", 10, (1, 8, 8), {})
    a, b, c = (models.build(arch, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_a_checkpoint_that_says_what_it_is_needs_no_flags() -> None:
    arch = Architecture("cnn", 7, (1, 8, 8), {"width": 4})
    assert models.architecture(ModelSettings(), arch.about(), Path("file.pt")) == arch


def test_flags_overrule_the_checkpoint() -> None:
    about = Architecture("cnn", 7, (1, 8, 8), {"width": 4}).about()
    found = models.architecture(ModelSettings(model="MLP", num_classes=3), about)
    assert (found.model, found.num_classes, found.args) == ("mlp", 3, {})


def test_an_unknown_model_is_named_with_the_closest_one() -> None:
    with pytest.raises(SettingsError) as caught:
        models.architecture(ModelSettings(model="vgg166", num_classes=10))
    assert "vgg16" in caught.value.hint


def test_a_factory_named_by_a_checkpoint_is_not_imported() -> None:
    with pytest.raises(SettingsError, match="would run code"):
        models.architecture(ModelSettings(), About(model="os:abort", num_classes=1))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("depths=2,2,6,2", {"depths": (2, 2, 6, 2)}),
        ("depths=(2, 2, 6),width=4", {"depths": (2, 2, 6), "width": 4}),
        ("size=[1,2],name='a,b',on=true", {"size": [1, 2], "name": "a,b", "on": True}),
        ("act=gelu,windows={'a': (1, 2)}", {"act": "gelu", "windows": {"a": (1, 2)}}),
        ("quote=it's,b=1", {"quote": "it's", "b": 1}),
    ],
)
def test_arguments_may_hold_commas(typed: str, meant: dict[str, object]) -> None:
    spec = next(spec for spec in specs(ModelSettings) if spec.name == "model_arg")
    settings = ModelSettings(model_arg=parse(spec, typed))
    assert arguments(settings.model_arg, "--model-arg") == meant
    assert arguments(words_of(meant), "--model-arg") == meant


def test_an_unknown_model_argument_is_named() -> None:
    arch = models.architecture(ModelSettings(model="cnn", model_arg=("widht=4",)), num_classes=10)
    with pytest.raises(SettingsError, match="widht"):
        models.build(arch)


def test_a_misspelt_norm_is_refused() -> None:
    with pytest.raises(SettingsError, match="norm is none or batch"):
        models.build(Architecture("cnn", 10, (1, 8, 8), {"norm": "layer"}))


def test_the_incremental_network_begins_as_the_original_does() -> None:
    """Normal weights of variance 2 over the inputs (1 over them in the head), no bias."""
    model = models.build(Architecture("incremental-resnet18", 100, (3, 32, 32), {"width": 16}), seed=0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = 2 if isinstance(module, nn.Conv2d) else 1
            spread = float(module.weight.detach().std()) / (gain / module.weight[0].numel()) ** 0.5
            assert abs(spread - 1) < 4 / (2 * module.weight.numel()) ** 0.5, name
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("model", "word"), [("vgg16", "norm=True"), ("garipov-vgg16bn", "depth=19"), ("preresnet20", "depth=56")]
)
def test_what_a_name_says_is_not_said_again_by_an_argument(model: str, word: str) -> None:
    key, _, value = word.partition("=")
    arch = models.Architecture(model, 10, (3, 32, 32), {key: ast.literal_eval(value)})
    with pytest.raises(SettingsError, match=f"'{model}' itself says its '{key}'"):
        models.build(arch)


class Versioned(nn.Linear):
    """Asks of what version a state dict is, as MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        if local_metadata.get("version") != 2:
            raise ValueError("of what version?")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def test_a_layer_that_asks_for_its_version_takes_a_plain_state_dict():
    model, state = Versioned(2, 3), {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    weights.load_into(model, state, "a file")
    assert torch.equal(model(torch.ones(1, 2)), torch.full((1, 3), 2.0))
