"""The diagonal of the Fisher information, F = E_x E_y (∂ log p(y|x)/∂θ)²: squares of single samples' gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.layout import Unclear
from modeconn_cli.engine.samples.per_sample import fallback, uses
from modeconn_cli.engine.samples.per_sample.passes import Passes
from modeconn_cli.engine.samples.per_sample.rules import Met
from modeconn_cli.engine.samples.per_sample.uses import Use

Kind = Literal["true", "empirical"]
CHECKED, AGREE = 3, 1e-3  # samples that are compared with a loop of one first, and how far they may be off


class DiagonalFisher:
    """Adds up over batches under a model's present weights, in eval mode; `begin` starts anew.

    `true`: y is drawn from the network's own p(y|x), once per sample and keyed by (seed, sample id); `empirical`: y is
    the label. Costs a forward and a backward pass, and the gradient of every sample in turn.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        kind: Kind,
        seed: int = 0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.kind, self.seed, self._note = model.eval(), kind, seed, note
        self.trainable = dict(model.named_parameters())
        self._passes: Passes | None = None
        self._checked = False
        try:
            self._passes = Passes(model, input_shape, self.trainable)
        except (InputError, Unclear) as error:
            self._fall_back(str(error))
        self.begin()

    def _fall_back(self, reason: str) -> None:
        self._passes = None
        self._note(f"Fisher information with torch.func, which is slower: {reason.splitlines()[0][:160]}")

    def begin(self) -> None:
        """Forget all samples, and take up the model's present weights."""
        self.samples = 0
        self._sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self.trainable.items()}
        if self._passes is not None:
            self._passes.refresh()

    def information(self) -> dict[str, Tensor]:
        """The mean over the samples, float64 in the shape of each parameter."""
        return {name: total / self.samples for name, total in self._sums.items()}

    def add(self, images: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Take up N samples: images [N, …], labels and ids int64 [N]."""
        if self._passes is not None and not self._checked:
            self._check(images[:CHECKED], labels[:CHECKED], ids[:CHECKED])
        found = self._slowly if self._passes is None else self._traced
        for name, squares in found(images, labels, ids).items():
            self._sums[name] += squares
        self.samples += len(images)

    def _targets(self, logits: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        if self.kind == "empirical":
            return labels
        below = logits.detach().double().softmax(1).cumsum(1)
        drawn = keyed.uniform(self.seed, "fisher", ids) * below[:, -1:]
        return torch.searchsorted(below, drawn, right=True).squeeze(1).clamp_max(logits.shape[1] - 1)

    def _check(self, images: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Before the first batch: falls back where a rule gives other squares than plain autograd does."""
        self._checked = True
        try:
            found = self._traced(images, labels, ids)
        except Unclear as error:
            self._fall_back(str(error))
            return
        with torch.no_grad():
            targets = self._targets(self.model(images), labels, ids)
        exact = {name: torch.zeros_like(p) for name, p in self.trainable.items()}
        for _, gradients in fallback.alone(self.model, self.trainable, images, targets, _losses):
            for name, gradient in gradients.items():
                exact[name] += gradient.square().sum(0)
        for name, expected in exact.items():
            value = found.get(name, torch.zeros_like(expected))
            off = (value - expected).abs().max() if expected.numel() else torch.tensor(0.0)
            if bool(expected.isfinite().all()) and not bool(off <= AGREE * expected.abs().max()):
                self._fall_back(f"squares of '{name}' differ from those of single samples")
                return

    def _slowly(self, images: Tensor, labels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            targets = self._targets(self.model(images), labels, ids)
        out: dict[str, Tensor] = {}
        for _, gradients in fallback.gradients(
            self.model, self.trainable, images, targets, _losses, self._note
        ):
            for name, gradient in gradients.items():
                squares = gradient.square().sum(0)
                out[name] = out[name] + squares if name in out else squares
        return out

    def _traced(self, images: Tensor, labels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Σ_i (∇ℓ_i)² of N samples by parameter; parameters that the loss does not depend on are left out."""
        assert self._passes is not None
        out: dict[str, Tensor] = {}
        step = self._passes.step or len(images)
        for x, y, some in zip(*(torch.split(values, step) for values in (images, labels, ids)), strict=True):
            self._pass(x, y, some, out)
        return out

    def _pass(self, images: Tensor, labels: Tensor, ids: Tensor, out: dict[str, Tensor]) -> None:
        passes = self._passes
        assert passes is not None

        def heard(use: Use, met: Met) -> None:
            for place, name in use.whole.items():
                part, squares = use.parts[place], use.rule.squares(met, place)
                if part.op == "placeholder":
                    out[name] = out[name] + squares if name in out else squares
                    continue
                # A piece of a parameter, moved: its elements go where they came from.
                whole = out.setdefault(name, torch.zeros_like(self.trainable[name].detach()).contiguous())
                at = uses.elements(part).flatten().to(whole.device)
                whole.view(-1).index_add_(0, at, squares.flatten())

        def losses(logits: Tensor) -> Tensor:
            return _losses(logits, self._targets(logits, labels, ids))

        _, collected = passes.run(images, losses, heard)
        for name, gradients in collected.items():
            squares = gradients.square().sum(0)
            out[name] = out[name] + squares if name in out else squares


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.double(), labels, reduction="none")
