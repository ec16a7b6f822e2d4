"""Networks by name: registered ones and the user's own factories."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.factories import arguments, call, imported
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.networks.forward import forward, unwrap
from modeconn_cli.engine.networks.inputs import Images, Inputs, Own, Tokens, has_example
from modeconn_cli.engine.networks.untouched import watch
from modeconn_cli.engine.registry import MODELS, Entry, find_model, is_import_path
from modeconn_cli.engine.settings.shared import NetworkSettings, TracedSettings

__all__ = ["Architecture", "architecture", "asks_for_classes", "build", "factory_of", "with_own_example"]


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build a network: what a checkpoint remembers of it.

    Of a network of tokens, or one that is called with its own example, `input_shape` says nothing.
    """

    model: str
    num_classes: int | None  # None: the network's factory knows them
    input_shape: tuple[int, ...]
    args: Mapping[str, Any]
    input_tokens: int | None = None  # the number of tokens in an input; None where it is none of tokens
    own_example: bool = False

    @property
    def takes_images(self) -> bool:
        return self.input_tokens is None and not self.own_example

    def inputs(self, model: nn.Module) -> Inputs:
        """What the network is called with where there are no data."""
        if self.own_example:
            return Own(model)
        return Images(self.input_shape) if self.input_tokens is None else Tokens(model, self.input_tokens)

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
            input_shape=tuple(self.input_shape) if self.takes_images else None,
            input_tokens=self.input_tokens,
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
    """What to build: the classes that flags, the file at `path` or the data say, the images' shape that the data, the
    file, --input-shape or --image-size say, in this order; or the tokens that --input-tokens or the file says.

    Raises SettingsError where nothing names the network, InputError for an --input-shape that is not that of the data,
    and where one says tokens and another images.
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
    known = input_shape or about.input_shape
    if settings.input_shape and known not in (None, settings.input_shape):
        of = "the data have" if input_shape else f"'{path}' was trained on"
        raise InputError(f"--input-shape is {settings.input_shape}, {of} images {known}", "leave it out")
    tokens = _tokens(settings, about, path, input_shape)
    return Architecture(name, classes, tuple(known or settings.input_shape or default), args, tokens)


def _tokens(
    settings: NetworkSettings, about: About, path: Path | None, input_shape: tuple[int, ...] | None
) -> int | None:
    """How many tokens an input has, None where it is none of tokens."""
    asked = settings.input_tokens if isinstance(settings, TracedSettings) else None
    if asked is not None and about.input_shape is not None:
        raise InputError(
            f"--input-tokens is {asked}, '{path}' was trained on images {about.input_shape}", "leave it out"
        )
    tokens = asked or about.input_tokens
    images = input_shape or settings.input_shape
    if tokens is not None and images:
        raise InputError(f"the network takes {tokens} tokens, not images {tuple(images)}")
    return tokens


def with_own_example(
    arch: Architecture, model: nn.Module, settings: NetworkSettings, about: About
) -> Architecture:
    """The network as it is called where nobody says with what: with its `example_input()`, if it has that."""
    said = arch.input_tokens or about.input_shape or settings.input_shape
    return arch if said or not has_example(model) else replace(arch, own_example=True)


def build(arch: Architecture, seed: int = 0, note: Callable[[str], None] = lambda _: None) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights.

    It forgets what it computes from one set of weights before another is used (`untouched`), and `note` hears of it.
    """
    torch.manual_seed(seed)
    factory, fixed = _factory(arch.model)
    if taken := next((key for key in arch.args if key in fixed), None):
        raise SettingsError(
            f"--model-arg: '{arch.model}' itself says its '{taken}'", "choose another --model"
        )
    if arch.num_classes is None and asks_for_classes(arch, always=True):
        raise SettingsError("the number of classes is not known", "pass --num-classes")
    model = call(
        factory,
        {**arch.args, **fixed},
        "--model-arg",
        input_shape=arch.input_shape,
        input_tokens=arch.input_tokens,
        num_classes=arch.num_classes,
    )
    if not isinstance(model, nn.Module):
        raise SettingsError(f"'{arch.model}' made a {type(model).__name__}, not a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"'{arch.model}' made a script, whose layers cannot be seen", "leave out torch.jit")
    if any(map(is_lazy, model.parameters())):  # which take their shapes from the first forward
        with torch.no_grad():
            forward(model.eval(), arch.inputs(model).blank(2))
        model.train()
    model.register_forward_hook(unwrap)
    watch(model, note)
    return model


def asks_for_classes(arch: Architecture, *, always: bool = False) -> bool:
    """Whether the classes of a network are an argument of its factory, or (`always`) one without a default."""
    asked = inspect.signature(_factory(arch.model)[0]).parameters.get("num_classes")
    return (
        asked is not None
        and "num_classes" not in arch.args
        and not (always and asked.default is not asked.empty)
    )


def _factory(name: str) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    """What makes a network, and the arguments that its name says."""
    if is_import_path(name):
        return imported(name), {}
    _, entry = find_model(name)
    return factory_of(entry), entry.args


def factory_of(entry: Entry) -> Callable[..., Any]:
    """What makes a registered network."""
    module, function = entry.where.split(":")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"modeconn_cli.engine.networks.models.{module}"), function
    )
    return found
