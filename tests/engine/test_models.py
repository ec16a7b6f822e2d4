"""Every registered network: parameter counts, key names, reproducible initialisation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from modeconn_cli.engine import models, weights
from modeconn_cli.engine.checkpoints import Checkpoint
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.models import Architecture
from modeconn_cli.engine.registry import INPUT_SHAPES, MODELS
from modeconn_cli.engine.settings.shared import ModelSettings

DATA = Path(__file__).parent.parent / "data"

COUNTS = {"mlp": 8_970, "cnn": 22_954, "lenet5": 61_706, "vgg16": 15_245_130}


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_are_pinned(name: str) -> None:
    model = models.build(Architecture(name, 10, INPUT_SHAPES[name], {}))
    assert weights.count(dict(model.named_parameters())) == COUNTS[name]
    assert model(torch.zeros(2, *INPUT_SHAPES[name])).shape == (2, 10)


def test_vgg16_has_the_key_names_and_shapes_of_dnn_mode_connectivity() -> None:
    expected = json.loads((DATA / "garipov_vgg_keys.json").read_text())["VGG16"]["base"]
    state = models.build(Architecture("vgg16", 10, (3, 32, 32), {})).state_dict()
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


def checkpoint(**about: object) -> Checkpoint:
    return Checkpoint(Path("file.pt"), "model_state", {}, about=about)


def test_a_checkpoint_that_says_what_it_is_needs_no_flags() -> None:
    arch = Architecture("cnn", 7, (1, 8, 8), {"width": 4})
    assert models.architecture(ModelSettings(), checkpoint(**arch.describe())) == arch


def test_flags_overrule_the_checkpoint() -> None:
    about = Architecture("cnn", 7, (1, 8, 8), {"width": 4}).describe()
    found = models.architecture(ModelSettings(model="MLP", num_classes=3), checkpoint(**about))
    assert (found.model, found.num_classes, found.args) == ("mlp", 3, {})


def test_model_names_are_matched_without_case_dashes_and_underscores() -> None:
    found = models.architecture(ModelSettings(model="LeNet-5", num_classes=10))
    assert found.model == "lenet5"


def test_an_unknown_model_is_named_with_the_closest_one() -> None:
    with pytest.raises(SettingsError) as caught:
        models.architecture(ModelSettings(model="vgg61", num_classes=10))
    assert "vgg16" in caught.value.hint


def test_a_factory_named_by_a_checkpoint_is_not_imported() -> None:
    with pytest.raises(SettingsError, match="would run code"):
        models.architecture(ModelSettings(), checkpoint(model="os:abort", num_classes=1))


def test_an_unknown_model_argument_is_named() -> None:
    arch = models.architecture(ModelSettings(model="cnn", model_arg=("widht=4",)), num_classes=10)
    with pytest.raises(SettingsError, match="widht"):
        models.build(arch)
