"""Forward and backward passes that hear of every sample's gradient by the parameters, without making it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.samples.per_sample import uses
from modeconn_cli.engine.samples.per_sample.program import Program
from modeconn_cli.engine.samples.per_sample.rules import Met
from modeconn_cli.engine.samples.per_sample.uses import Use

COLLECTED = 1 << 26  # elements of collected gradients that exist at a time


class Passes:
    """Of a model that can be traced, under its present weights; `refresh` after they have changed.

    `step`: samples of a pass at the most, None for any number. Raises InputError or Unclear for a model that
    cannot be traced or taken apart.
    """

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, ...], trainable: dict[str, nn.Parameter]
    ) -> None:
        graph = graphs.trace(model, input_shape)
        self.plan = uses.find(graph, trainable)
        self._program = Program(graph, self.plan, model, next(model.parameters()).device)
        roots = {name for names in self.plan.made_of.values() for name in names}
        elements = sum(trainable[name].numel() for name in roots)
        self.step = max(1, COLLECTED // elements) if elements else None
        self.refresh()

    def refresh(self) -> None:
        """Take up the model's present weights."""
        self._program.refresh()

    def run(
        self, images: Tensor, losses: Callable[[Tensor], Tensor], heard: Callable[[Use, Met], None]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass over N samples: their losses [N], of the logits, and the gradients [N, …] of parameters that are
        used in several places, by name. `heard` is told of every use with parameters of its own.
        """
        collected: dict[fx.Node, Tensor] = {}

        def arrived(use: Use, met: Met) -> None:
            with torch.no_grad():
                if use.whole:
                    heard(use, met)
                for place in use.collected:
                    part, found = use.parts[place], use.rule.gradient(met, place)
                    collected[part] = collected[part] + found if part in collected else found

        with torch.enable_grad():
            logits, leaves = self._program.run(images, arrived)
            found = losses(logits)
            if leaves:
                wanted = [leaf for leaf, _ in leaves]
                gradients = torch.autograd.grad(found.sum(), wanted, allow_unused=True)
                for (_, hear), gradient in zip(leaves, gradients, strict=True):
                    if gradient is not None:  # a loss may stop before its first layers
                        hear(gradient)
        return found.detach(), self._rooted(collected)

    def _rooted(self, collected: dict[fx.Node, Tensor]) -> dict[str, Tensor]:
        """Collected gradients, [N, …] each, carried back to the parameters that their tensors are made of."""
        if not collected:
            return {}
        program, nodes = self._program, list(collected)
        names = list(dict.fromkeys(name for node in nodes for name in self.plan.made_of[node]))
        found = torch.autograd.grad(
            [program.fixed[node] for node in nodes],
            [program.roots[name] for name in names],
            grad_outputs=[collected[node] for node in nodes],
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}
