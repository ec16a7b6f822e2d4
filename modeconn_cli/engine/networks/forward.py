"""The guard around a network's own forward and backward: it may be a user's, and may raise or give anything."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError, McxError

_CHANNELS = re.compile(r"expected input\[.*\] to have (\d+) channels, but got (\d+) channels")
_ONE_VALUE = "more than 1 value per channel"  # of torch's message


@contextlib.contextmanager
def guard(what: str, hint: str | Callable[[Exception], str] = "") -> Iterator[None]:
    """Around the user's own code. Raises InputError, which begins with `what`, where it fails.

    The hint may depend on the error.
    """
    try:
        yield
    except (McxError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or "it gives no reason").splitlines()[0]
        advice = hint if isinstance(hint, str) else hint(error)
        raise InputError(f"{what}: {type(error).__name__}: {reason}", advice) from error


def forward(model: nn.Module, images: Tensor | tuple[Tensor, ...]) -> Any:
    """What a network gives for images [N, …], or for tensors of any kind. Raises InputError where its forward fails."""
    given = images if isinstance(images, tuple) else (images,)
    with guard(f"the network's forward fails on {_kinds(given)}", partial(_advice, given)):
        return model(*given)


def _kinds(given: tuple[Tensor, ...]) -> str:
    shapes = " and ".join(str(tuple(each.shape)) for each in given)
    return f"{'images' if _are_images(given) else 'inputs'} {shapes}"


def _are_images(given: tuple[Tensor, ...]) -> bool:
    return len(given) == 1 and given[0].is_floating_point()


def _advice(given: tuple[Tensor, ...], error: Exception) -> str:
    """What may have made a forward fail: it wants more than images, or other ones, or is at fault itself."""
    images = given[0]
    if not _are_images(given):
        return "--input-tokens L says how many tokens, the network's example_input() all of its inputs"
    if "scalar types: Long" in str(error):
        return "a network that takes tokens: --input-tokens L, for the commands that have it"
    if isinstance(error, TypeError) and "argument" in str(error):
        return "it is called with one tensor of images: wrap one that takes more"
    if not isinstance(error, RuntimeError | ValueError | AssertionError | IndexError | TypeError):
        return "MCX_DEBUG=1 shows where"
    if found := _CHANNELS.search(str(error)):
        takes, has = map(int, found.groups())
        hint = f"the network takes {takes} {'channel' if takes == 1 else 'channels'}, the images have {has}"
        return hint + (f": --data-arg channels={takes} reads files so" if takes in (1, 3) else "")
    if len(images) == 1 and _ONE_VALUE in str(error):
        return "batch norm has no variance over a batch of one: pass a larger --batch-size, or more samples"
    hint = "--image-size N or --input-shape C,H,W says the size of images"
    if images.ndim == 4 and images.shape[1] == 3:
        hint += ", --data-arg channels=1 reads files of grey images in one channel"
    return hint


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """The logits [N, C] of images [N, …]. Raises InputError where the network fails or gives anything else."""
    found = forward(model, images)
    if isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(images):
        return found
    what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    hint = "wrap it in a module that returns the logits"
    if model.training:
        hint += "; an auxiliary head can often be left out (--model-arg aux_logits=False)"
    mode = " in training mode" if model.training else ""
    raise InputError(f"the network gives {what}{mode}, not logits [samples, classes]", hint)


def unwrap(model: nn.Module, _inputs: Any, outputs: Any) -> Tensor | None:
    """A forward hook that takes the logits out of an object or a named tuple; None leaves the output as it is.

    In training mode an output with a second set of logits stays as it is: its loss would be another one.
    """
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(outputs, Tensor) or not isinstance(found, Tensor):
        return None
    if isinstance(outputs, Mapping):
        further = dict(outputs)
    else:
        further = outputs._asdict() if hasattr(outputs, "_asdict") else getattr(outputs, "__dict__", {})
    beside = [value for value in further.values() if isinstance(value, Tensor) and value is not found]
    if model.training and any(value.shape == found.shape for value in beside):
        return None
    return found
