"""Training a network's own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from modeconn_cli.engine.networks import checkpoints, weights


class NetworkProblem:
    """Train a network's own parameters; the optimizer applies the weight decay."""

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
