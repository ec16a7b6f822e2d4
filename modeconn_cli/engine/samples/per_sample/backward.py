"""Forward and backward passes that hear of every sample's gradient by the parameters, without making it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks import one_sample, weights
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.forward import guard
from modeconn_cli.engine.networks.graph import operation, schema
from modeconn_cli.engine.networks.sample_axis import RESHAPES, Inseparable
from modeconn_cli.engine.samples.per_sample import uses
from modeconn_cli.engine.samples.per_sample.rules import Call
from modeconn_cli.engine.samples.per_sample.uses import Use

COLLECTED = 1 << 26  # elements of gradients by shared parameters that exist at a time
VIEWS = RESHAPES | {
    "alias", "chunk", "contiguous", "getitem", "movedim", "narrow", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze",
}  # fmt: skip


class Backward(Runner):
    """Passes through a traced model in which the data takes gradients and no parameter does.

    They are under the weights of the last `refresh`. `step`: samples of a pass at the most, None for any number.
    Raises InputError or Inseparable for a model that cannot be traced, or where samples cannot be told apart.
    """

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, ...], trainable: dict[str, nn.Parameter]
    ) -> None:
        self._traced = graphs.trace(model, input_shape)
        super().__init__(self._traced.module)
        self._made_of = self._traced.made_of(gradients=True)
        self._uses = uses.find(self._traced, trainable, self._made_of)
        made = [source for use in self._uses.values() for source in use.made.values()]
        names = (name for source in made for name in self._made_of[source] if name in trainable)
        self._rooted = list(dict.fromkeys(names))
        elements = sum(trainable[name].numel() for name in self._rooted)
        self.step = max(1, COLLECTED // elements) if elements else None
        # Live: new weights need no new trace.
        self._state = weights.tensors_of(model)
        self._example = next(model.parameters()).new_empty(0)
        self.refresh()

    def refresh(self) -> None:
        """Take up the model's present weights: compute what is made of parameters alone, with its gradient."""
        self._roots = {name: self._state[name].detach().requires_grad_() for name in self._rooted}
        values = {
            name: self._roots.get(self._traced.canonical(name), tensor.detach())
            for name, tensor in self._state.items()
        }
        self.env = dict(self._traced.arguments(values, self._example))
        with torch.enable_grad():
            for node in self._made_of:
                if node.op != "placeholder":
                    self.env[node] = self.run_node(node)
        self._fixed = {node: self.env[node] for node in self._made_of}

    def run_batch(
        self, images: Tensor, losses: Callable[[Tensor], Tensor], heard: Callable[[Use, Call], None]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass over N samples: their losses [N], of the logits, and the gradients [N, …] of parameters that are
        used in several places, by name. `heard` is told of every use with parameters of its own.
        """
        self._heard, self._leaves = heard, list[tuple[Tensor, Callable[[Tensor], None]]]()
        self._collected: dict[fx.Node, Tensor] = {}
        start = {node: v.detach() if isinstance(v, Tensor) else v for node, v in self._fixed.items()}
        try:
            with torch.enable_grad():
                with guard("the graph does not run"), one_sample.exact(images):
                    outputs = self.run(images, initial_env=start)
                found = losses(_logits(outputs))
                self._differentiate(found.sum())
            return found.detach(), self._by_parameters()
        finally:
            self.env, self._leaves, self._collected = {}, [], {}  # which hold the activations

    def compute(self, n: fx.Node) -> Any:
        if n not in self._uses:
            return super().compute(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        out: Tensor = cast("Callable[..., Any]", n.target)(*args, **kwargs)
        hear = self._hearing(n, args, out)
        first = not out.requires_grad  # on its way from the input: its gradient has to be asked for
        if first:
            out = out.detach().requires_grad_()
            self._leaves.append((out, hear))
        else:
            out.register_hook(hear)  # type: ignore[no-untyped-call]
        kept = first or self._uses[n].rule.needs_output
        return out.clone() if kept and _is_written(n) else out

    def _hearing(self, node: fx.Node, args: tuple[Any, ...], out: Tensor) -> Callable[[Tensor], None]:
        """What is to be told the gradient by the output of a use."""
        use = self._uses[node]
        # Detached: a hook that holds a part of its own graph would never be freed.
        call = Call(
            [a.detach() if isinstance(a, Tensor) else a for a in args],
            out.detach() if use.rule.needs_output else None,
            use.data_axis,
            use.output_axis,
        )
        versions = [t._version for t in call.tensors()]

        def hear(gradient: Tensor) -> None:
            if [t._version for t in call.tensors()] != versions:
                raise Inseparable(f"a tensor at {node.name} is overwritten in place")
            call.arrived = gradient
            self._arrived(use, call)
            call.clear()

        return hear

    @torch.no_grad()
    def _arrived(self, use: Use, call: Call) -> None:
        if use.whole:
            self._heard(use, call)
        for place, source in use.made.items():
            found = use.rule.gradient(call, place)
            known = self._collected.get(source)
            self._collected[source] = found if known is None else known + found

    def _differentiate(self, total: Tensor) -> None:
        if not self._leaves:
            return
        gradients = torch.autograd.grad(total, [leaf for leaf, _ in self._leaves], allow_unused=True)
        for (_, hear), gradient in zip(self._leaves, gradients, strict=True):
            if gradient is not None:  # a loss may stop before its first layers
                hear(gradient)

    def _by_parameters(self) -> dict[str, Tensor]:
        """Collected gradients, [N, …] each, carried back to the parameters that their tensors are made of."""
        names = list(self._roots)
        if not self._collected:
            return {}
        with guard("no gradients in batches"):
            found = torch.autograd.grad(
                [self._fixed[node] for node in self._collected],
                [self._roots[name] for name in names],
                grad_outputs=list(self._collected.values()),
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
        return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def _is_written(node: fx.Node) -> bool:
    """Whether an operation writes into what a node computes, or into a view of it."""
    for user in node.users:
        if user.op == "call_function" and user.args and user.args[0] is node:
            if isinstance(user.target, torch._ops.OpOverload) and schema(user).is_mutable:
                return True
            if operation(user) in VIEWS and _is_written(user):
                return True
    return False


def _logits(found: Any) -> Tensor:
    while isinstance(found, tuple | list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise Inseparable("the network's output is not one tensor of logits [N, classes]")
    return found
