"""The rule for operations without one of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from modeconn_cli.engine.networks.layout import Layout, Unclear
from modeconn_cli.engine.samples.per_sample.rules import Met, Rule


class AnyOperation(Rule):
    """Any other operation, differentiated sample by sample with torch.func."""

    merged = False

    def __init__(
        self, target: Any, kwargs: dict[str, Any], parts: Iterable[int], data: dict[int, Layout]
    ) -> None:
        self.target, self.kwargs, self.layouts = target, kwargs, data
        self.places = dict.fromkeys(parts, "parameter")

    def gradient(self, met: Met, part: int) -> Tensor:
        parameter: Tensor = met.arg(part)

        def alone(value: Tensor, layout: Layout) -> Tensor:
            """A sample as a batch of one; where its axis is not the first, `first` has kept its place."""
            return value if layout.axis else value.unsqueeze(0)

        def one(g: Tensor, *data: Tensor) -> Tensor:
            args = list(met.args)
            for (place, layout), value in zip(self.layouts.items(), data, strict=True):
                args[place] = alone(value, layout)

            def run(theta: Tensor) -> Tensor:
                args[part] = theta
                out: Tensor = self.target(*args, **self.kwargs)
                return out

            back = torch.func.vjp(run, parameter)[1]
            (found,) = back(alone(g, met.outside))
            return found  # type: ignore[no-any-return]

        data = [layout.first(met.arg(place)) for place, layout in self.layouts.items()]
        try:
            batched: Tensor = torch.func.vmap(one)(met.grad(), *data)
        except RuntimeError as error:
            raise Unclear(f"torch.func refused {self.target}: {str(error).splitlines()[0]}") from error
        return batched
