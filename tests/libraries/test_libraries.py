"""Bare weights of torchvision's and timm's networks are opened by name alone, and compute what they computed there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from libraries.networks import CLASSES, LARGE, SMALLEST, TIMM, image_size, plain, torchvision
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import subject
from modeconn_cli.engine.networks.models import Architecture, recognise
from modeconn_cli.engine.settings.shared import ModelSettings

WHOLE = 100_000_000  # parameters up to which a file is written and read


def on_meta(name: str) -> nn.Module | None:
    """The same without memory; None for one whose constructor computes with its tensors."""
    try:
        with torch.device("meta"):
            return plain(name)
    except (RuntimeError, NotImplementedError, ValueError):
        return None


@torch.no_grad()
def logits(model: nn.Module, size: int) -> Tensor:
    torch.manual_seed(1)
    out: Tensor = model.eval()(torch.randn(2, 3, size, size))
    return out


def names() -> list[Any]:
    quick = {*(f"torchvision:{name}" for name in SMALLEST), *(f"timm:{name}" for name in TIMM)}
    every = [
        *(f"torchvision:{name}" for name in torchvision()),
        *(f"timm:{name}" for name in (*TIMM, *LARGE)),
    ]
    return [
        pytest.param(name, marks=pytest.mark.slow if name in quick else pytest.mark.table) for name in every
    ]


@pytest.mark.filterwarnings("ignore")  # of the libraries' own constructors
@pytest.mark.parametrize("name", names())
def test_bare_weights_are_opened_by_the_networks_name(
    name: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    hollow = on_meta(name)
    size = image_size(hollow)
    parameters = 0 if hollow is None else sum(p.numel() for p in hollow.parameters())
    if parameters > WHOLE:
        assert hollow is not None
        found = recognise.with_classes_of(Architecture(name, None, (3, size, size), {}), hollow.state_dict())
        assert recognise.fits(found, hollow.state_dict())
        record_property("row", (name, f"{parameters:,}", found.num_classes, "not computed"))
        assert found.num_classes == CLASSES
        return
    torch.manual_seed(0)
    model = plain(name)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    settings = ModelSettings(model=name, input_shape=(3, size, size))
    read = subject.read(tmp_path / "w.pt", settings, Runtime())
    opened = subject.open_networks([read], settings, Runtime(), "no data")
    parameters = sum(p.numel() for p in model.parameters())
    assert opened.arch.num_classes == CLASSES
    assert [n for n, _ in opened.model.named_parameters()] == [n for n, _ in model.named_parameters()]
    torch.testing.assert_close(logits(opened.model, size), logits(model, size), rtol=0, atol=0)
    record_property("row", (name, f"{parameters:,}", opened.arch.num_classes, "equal"))
