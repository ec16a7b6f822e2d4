"""The diagonal of the Fisher information, F = E_x E_y (∂ log p(y|x)/∂θ)²: squares of single samples' gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.samples.per_sample.fallback import Loss
from modeconn_cli.engine.samples.per_sample.gradients import AGREE, CrossEntropy, Reduction, SampleGradients
from modeconn_cli.engine.samples.per_sample.rules import Call
from modeconn_cli.engine.samples.per_sample.uses import Use

Kind = Literal["true", "empirical"]

SUMMED = 100  # classes up to which the expectation over them is a sum
LEFT = 1e-7  # share of what is not the likeliest class's that the sum may leave out
FLOOR = 1e-10  # of the largest square: gradients smaller than 1e-5 of the largest are rounding


class DiagonalFisher:
    """Adds up over batches under a model's present weights, in eval mode; `begin` starts anew, and `clear` forgets the
    samples alone.

    `true`: the expectation over y is a sum over the classes by the network's own p(y|x); above 100 classes y is drawn
    from it, once per sample and keyed by (seed, sample id). `empirical`: y is the label. Costs a forward and a backward
    pass, and the gradient of every sample in turn; the sum costs that for every class that has a share in it.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        kind: Kind,
        seed: int = 0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        if complex_ := next((name for name, p in model.named_parameters() if p.is_complex()), None):
            raise InputError(
                f"the parameter '{complex_}' is complex: its diagonal Fisher information is not one number",
                "--metric l2,cosine,functional takes complex parameters",
            )
        self._model, self._kind, self._seed = model, kind, seed
        self._parameters = {name: p for name, p in model.eval().named_parameters() if p.is_floating_point()}
        self._gradients = SampleGradients(model, input_shape, self._parameters, "Fisher information", note)
        self.begin()

    def begin(self) -> None:
        """Forget all samples, and take up the model's present weights."""
        self.clear()
        self._gradients.refresh()

    def clear(self) -> None:
        """Forget all samples."""
        self._samples = 0
        self._sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self._parameters.items()}

    def information(self) -> dict[str, Tensor]:
        """The mean over the samples, float64 in the shape of each parameter."""
        return {name: total / self._samples for name, total in self._sums.items()}

    def add(self, images: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Take up N samples: images [N, …], labels and ids int64 [N]."""
        self._samples += len(images)
        if self._kind == "empirical":
            self._add(images, CrossEntropy(labels))
            return
        with torch.no_grad():
            shares, classes = self._model(images).double().softmax(1).sort(1, descending=True)
        if shares.shape[1] > SUMMED:
            self._add(images, _Drawn(labels, ids=ids, seed=self._seed))
            return
        # From here on: what the classes behind this one have, beside what those behind the first have.
        rest = shares.flip(1).cumsum(1).flip(1)
        for k in range(shares.shape[1]):
            rows = torch.nonzero(rest[:, k] > LEFT * rest[:, min(1, shares.shape[1] - 1)]).flatten()
            if len(rows):
                self._add(images[rows], _OfClass(classes[rows, k], shares[rows, k].sqrt()))

    def _add(self, images: Tensor, loss: Loss) -> None:
        for name, squares in self._gradients.reduce(images, loss, _Squares).sums.items():
            self._sums[name] += squares


@dataclass(frozen=True, kw_only=True)
class _Drawn(CrossEntropy):
    """A loss by labels that are drawn from the network's own probabilities."""

    ids: Tensor
    seed: int

    def targets(self, logits: Tensor, rows: slice) -> Tensor:
        below = logits.detach().double().softmax(1).cumsum(1)
        drawn = keyed.uniform(self.seed, "fisher", self.ids[rows]) * below[:, -1:]
        return torch.searchsorted(below, drawn, right=True).squeeze(1).clamp_max(logits.shape[1] - 1)


@dataclass(frozen=True)
class _OfClass:
    """√p·(−log p), with p held, of one class for each sample: its squared gradient is p (∇ log p)²."""

    classes: Tensor
    roots: Tensor

    def targets(self, logits: Tensor, rows: slice) -> Tensor:  # noqa: ARG002
        return torch.stack([self.classes[rows].double(), self.roots[rows]], dim=1)

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes, roots = targets.unbind(1)
        return cross_entropy(logits, classes.long()) * roots


class _Squares(Reduction):
    """Σ_i (∇ℓ_i)² by parameter; parameters that the loss does not depend on are left out."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def hear(self, rows: slice, use: Use, call: Call) -> None:  # noqa: ARG002
        for place, name in use.whole.items():
            self._add(name, use.rule.squares(call, place))

    def take(self, rows: slice, losses: Tensor, gradients: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        for name, gradient in gradients.items():
            self._add(name, gradient.square().sum(0))

    def _add(self, name: str, squares: Tensor) -> None:
        self.sums[name] = self.sums[name] + squares if name in self.sums else squares

    def differs(self, exact: Reduction) -> str:
        assert isinstance(exact, _Squares)
        floor = FLOOR * max(
            (float(squares.max()) for squares in exact.sums.values() if squares.numel()), default=0.0
        )
        for name, expected in exact.sums.items():
            off = (self.sums.get(name, torch.zeros_like(expected)) - expected).abs()
            close = expected.numel() == 0 or bool(off.max() <= AGREE * expected.abs().max() + floor)
            if not close and bool(expected.isfinite().all()):
                return f"squares of '{name}' differ from those of single samples"
        return ""
