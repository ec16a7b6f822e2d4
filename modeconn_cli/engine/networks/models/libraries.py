"""Networks of torchvision and timm, freshly initialised."""

from __future__ import annotations

from typing import Any

from torch import nn

from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.factories import of_torchvision


def torchvision_model(
    name: str, input_shape: tuple[int, ...], num_classes: int, **arguments: Any
) -> nn.Module:
    """`torchvision:NAME`. Vision transformers get the size of the images; auxiliary heads are off."""
    models = of_torchvision("models")

    if name not in models.list_models():
        raise SettingsError(f"torchvision has no model '{name}'", did_you_mean(name, models.list_models()))
    if name.startswith("vit_"):
        arguments.setdefault("image_size", input_shape[1])
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": False, **arguments}
    arguments = {"num_classes": num_classes, **arguments}
    model: nn.Module = models.get_model(name, weights=None, **arguments)
    return model


def timm_model(name: str, input_shape: tuple[int, ...], num_classes: int, **arguments: Any) -> nn.Module:
    """`timm:NAME`, for images of the data's channels."""
    try:
        import timm
    except ImportError:
        raise SettingsError("timm is not installed", "pip install 'modeconn-cli[timm]'") from None
    if not timm.is_model(name):
        raise SettingsError(f"timm has no model '{name}'", did_you_mean(name, timm.list_models()))
    arguments = {"num_classes": num_classes, "in_chans": input_shape[0], **arguments}
    model: nn.Module = timm.create_model(name, **arguments)
    return model
