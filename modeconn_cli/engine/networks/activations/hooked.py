"""What the modules of a network give that cannot be traced: the outputs of its layers, heard by hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.activations.sites import Layer


class Hooked:
    """The outputs of convolution, linear and attention modules, each `reduced` to a row per sample, [N, …].

    Raises InputError for a model of which a part is a script, whose layers take no hooks.
    """

    def __init__(
        self,
        model: nn.Module,
        reduced: Callable[[nn.Module, Tensor], Tensor],
        example: Tensor,
        note: Callable[[str], None],
    ) -> None:
        self._model, self._reduced = model, reduced
        scripted = [name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
        if scripted:
            raise InputError(
                f"'{scripted[0]}' is a script, whose layers cannot be seen",
                "make the network without torch.jit.script",
            )
        self._names: dict[nn.Module, str] = {
            part: name for name, part in model.named_modules() if isinstance(part, _OBSERVED)
        }
        self.layers: list[Layer] = []  # which of them are called shows when they are
        folded = set[str]()
        with torch.no_grad():
            for images in (example[:1], torch.cat([example[:1]] * 3)):
                calls = self._called(images)
                folded |= {layer.name for layer, rows in calls if len(rows) != len(images)}
        self.layers = [layer for layer, _ in calls if layer.name not in folded]
        self._all = [layer for layer, _ in calls]
        if not calls:
            raise InputError("the network calls no convolution and no linear layer")
        if folded:
            names = [layer.name for layer in self._all if layer.name in folded]
            if not self.layers:
                raise InputError(
                    f"'{names[0]}' gives no row per sample", "its units cannot be told by sample"
                )
            note(f"left out, as they give no row per sample: {', '.join(names)}")

    @torch.no_grad()
    def __call__(self, images: Tensor, state: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """The rows of each of `layers`, under the model's own tensors or those of a `state`."""
        calls = self._called(images, state)
        if [layer for layer, _ in calls] != self._all:
            raise InputError("the network calls other layers for one batch than for another")
        kept = {layer.name for layer in self.layers}
        return [rows for layer, rows in calls if layer.name in kept]

    def _called(
        self, images: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> list[tuple[Layer, Tensor]]:
        """Every layer that is called, with its rows."""
        found: list[tuple[Layer, Tensor]] = []

        def heard(module: nn.Module, _inputs: Any, output: Any) -> None:
            name = self._names.get(module)
            if name is None:  # of a copy of the network, which is tried
                return
            rows = self._reduced(module, output[0] if isinstance(output, tuple) else output)
            again = sum(layer.name.partition("#")[0] == name for layer, _ in found)
            called = f"{name}#{again + 1}" if again else name
            found.append((Layer("pre", called, type(module).__name__, rows.shape[1], 0, zero=False), rows))

        handles = [module.register_forward_hook(heard) for module in self._names]
        try:
            if state is None:
                self._model(images)
            else:
                torch.func.functional_call(self._model, dict(state), (images,))
        finally:
            for handle in handles:
                handle.remove()
        return found


_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_OBSERVED = (*_CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)


def largest(module: nn.Module, output: Tensor) -> Tensor:
    """The largest value of every unit, [N, units]: of convolutions on axis 1, of all others on the last."""
    output = _samples_first(module, output)
    if isinstance(module, nn.MultiheadAttention):
        output = output.abs()
    if isinstance(module, _CONVOLUTIONS):
        return output.flatten(2).amax(2)
    return output.flatten(1, -2).amax(1) if output.ndim > 2 else output


def rows(module: nn.Module, output: Tensor) -> Tensor:
    """All values, [N, units · positions], which nothing overwrites later."""
    return _samples_first(module, output).flatten(1).clone()


def _samples_first(module: nn.Module, output: Tensor) -> Tensor:
    moved = isinstance(module, nn.MultiheadAttention) and not module.batch_first
    return output.movedim(1, 0) if moved else output
