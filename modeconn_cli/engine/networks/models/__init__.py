"""Networks by name: registered ones and the user's own factories."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.factories import arguments, call, imported
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.networks.forward import unwrap
from modeconn_cli.engine.networks.untouched import watch
from modeconn_cli.engine.registry import MODELS, Entry, find_model, is_import_path
from modeconn_cli.engine.settings.shared import NetworkSettings

__all__ = ["Architecture", "architecture", "build", "factory_of"]


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build a network: what a checkpoint remembers of it."""

    model: str
    num_classes: int
    input_shape: tuple[int, ...]
    args: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "num_classes": self.num_classes,
            "input_shape": list(self.input_shape),
            "model_args": dict(self.args),
        }

    def about(self, about: About | None = None, **more: Any) -> About:
        """What a checkpoint of the network says of itself, beside what it or another one said before."""
        return replace(
            about or About(),
            model=self.model,
            num_classes=self.num_classes,
            input_shape=tuple(self.input_shape),
            model_args=dict(self.args),
            **more,
        )


def architecture(
    settings: NetworkSettings,
    about: About | None = None,
    path: Path | None = None,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Architecture:
    """What to build: flags, else the word of the file at `path`, else the data's classes and shape.

    Raises SettingsError where nothing names the network.
    """
    about = about or About()
    name = settings.model or about.model
    if name is None:
        where = "no network" if path is None else f"'{path}' does not say which network it holds"
        raise SettingsError(where, f"pass --model ({', '.join(MODELS)} or pkg.mod:factory)")
    if is_import_path(name):
        if settings.model is None:
            raise SettingsError(
                f"the checkpoint names the factory '{name}', which would run code",
                f"pass --model {name} if you trust it",
            )
        default = (3, 224, 224)
    else:
        name, entry = find_model(name)
        default = entry.input_shape
    same = name == about.model
    args = arguments(settings.model_arg, "--model-arg") or (about.model_args if same else {})
    classes = settings.num_classes or about.num_classes or num_classes
    if classes is None:
        raise SettingsError("the number of classes is not known", "pass --num-classes")
    shape = about.input_shape or input_shape or default
    return Architecture(name, int(classes), tuple(shape), args)


def build(arch: Architecture, seed: int = 0, note: Callable[[str], None] = lambda _: None) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights.

    It forgets what it computes from one set of weights before another is used (`untouched`), and `note` hears of it.
    """
    torch.manual_seed(seed)
    if is_import_path(arch.model):
        factory, fixed = imported(arch.model), {}
    else:
        _, entry = find_model(arch.model)
        factory, fixed = factory_of(entry), entry.args
        if taken := next((key for key in arch.args if key in fixed), None):
            raise SettingsError(
                f"--model-arg: '{arch.model}' itself says its '{taken}'", "choose another --model"
            )
    model = call(
        factory,
        {**arch.args, **fixed},
        "--model-arg",
        input_shape=arch.input_shape,
        num_classes=arch.num_classes,
    )
    if not isinstance(model, nn.Module):
        raise SettingsError(f"'{arch.model}' made a {type(model).__name__}, not a torch.nn.Module")
    model.register_forward_hook(unwrap)
    watch(model, note)
    return model


def factory_of(entry: Entry) -> Callable[..., Any]:
    """What makes a registered network."""
    module, function = entry.where.split(":")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"modeconn_cli.engine.networks.models.{module}"), function
    )
    return found
