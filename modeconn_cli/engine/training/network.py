"""Training a network's own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks import checkpoints, models, weights
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.registry import is_import_path


class NetworkProblem:
    """Train a network's own parameters; the optimizer applies the weight decay."""

    draws = 1

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self.model = model
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer_decay = weight_decay

    def place(self, step: int) -> None:  # noqa: ARG002 - every problem is called alike
        self.model.zero_grad()

    def collect(self) -> float:
        return 0.0

    def settle(self) -> None:
        pass

    def content(self) -> dict[str, Any]:
        return {checkpoints.STATE: self.model.state_dict()}

    def restore(self, content: Mapping[str, Any]) -> None:
        state: dict[str, Tensor] = content[checkpoints.STATE]
        weights.load_into(self.model, state, "checkpoint")


def check_takes_images(model: nn.Module, arch: models.Architecture) -> None:
    """One forward of two blank images: a network that cannot take the data is named before the work begins.

    Raises SettingsError for one of ours, InputError for one of the user's.
    """
    try:
        with torch.no_grad():
            output = forward(model.eval(), torch.zeros(2, *arch.input_shape))
    except InputError as error:
        if is_import_path(arch.model):
            raise
        raise SettingsError(
            f"{arch.model} cannot take images of {arch.input_shape}: {error.message.split(': ', 1)[1]}",
            error.hint if "channel" in error.hint.partition(":")[0] else "pass --image-size N",
        ) from error
    classes = arch.num_classes or 1  # a head with more of them than the data have is ordinary
    if (
        not isinstance(output, torch.Tensor)
        or output.ndim != 2
        or len(output) != 2
        or output.shape[1] < classes
    ):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InputError(
            f"{arch.model} gives {shape} for two images, expected (2, {classes}) logits",
            "wrap it in a module that returns the logits",
        )
