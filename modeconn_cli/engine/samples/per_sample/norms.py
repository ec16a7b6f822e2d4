"""Losses and squared gradient norms of every sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import one_sample, weights
from modeconn_cli.engine.networks.forward import forward, guard
from modeconn_cli.engine.samples.per_sample.execution import NO_GRADIENT, frozen
from modeconn_cli.engine.samples.per_sample.gradients import (
    AGREE,
    CHECKED,
    CrossEntropy,
    Reduction,
    SampleGradients,
)
from modeconn_cli.engine.samples.per_sample.rules import Call, by_sample
from modeconn_cli.engine.samples.per_sample.uses import Use

Gradient = Literal["param", "input", "none"]


@dataclass(frozen=True)
class Scores:
    """Scores of N samples, float64 [N] on the CPU: cross-entropy in nats, ‖∇ℓ_i‖², ⟨θ, ∇ℓ_i⟩; None if not asked for.

    `logits` [N, classes] are those that they are of, all classes on the model's device; `of_label` [N, …] the gradient
    of the label's logit by the input.
    """

    losses: Tensor
    squares: Tensor | None
    inner: Tensor | None
    logits: Tensor
    of_label: Tensor | None = None


class _Kept:
    """A loss that keeps the logits it is told of: every way to gradients asks for the targets of all rows once."""

    def __init__(self, loss: CrossEntropy) -> None:
        self._loss, self._logits = loss, torch.empty(0)
        self.losses = loss.losses

    def targets(self, logits: Tensor, rows: slice) -> Tensor:
        if not len(self._logits):
            self._logits = torch.full(
                (len(self._loss.labels), logits.shape[1]), torch.nan, dtype=logits.dtype, device=logits.device
            )
        self._logits[rows] = logits.detach()
        return self._loss.targets(logits, rows)

    @property
    def logits(self) -> Tensor:
        """[N, classes]; NaN where no row was told of."""
        return self._logits


class PerSample:
    """Scores batches under a model's present weights; `refresh` after they have changed.

    `gradient` is by the trainable parameters, by the input, or none; how the norms by parameters come about is said
    in `method`. With `inner` ⟨θ, ∇ℓ_i⟩ by parameters too; with `of_label` the gradient of the label's logit by the
    input, one backward pass by the input more.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        gradient: Gradient,
        *,
        inner: bool = False,
        of_label: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model.eval()
        self.gradient, self._wants_inner, self._of_label = gradient, inner, of_label
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._gradients: SampleGradients | None = None
        if gradient == "param":
            if not self.trainable:
                raise InputError(
                    "no parameter of the network is trained, so there is no gradient by parameters",
                    "--grad input takes that by the input, --grad none the losses alone",
                )
            what = "gradient norms sample by sample"
            self._gradients = SampleGradients(self.model, input_shape, self.trainable, what, note)

    @property
    def method(self) -> str:
        if self._gradients is not None:
            return self._gradients.method
        return "none" if self.gradient == "none" else "one backward pass"

    def refresh(self) -> None:
        """Take up the model's present weights."""
        if self._gradients is not None:
            self._gradients.refresh()

    def square_norm(self) -> float:
        """‖θ‖² of the trainable parameters."""
        return sum(float(weights.flat(p).double().square().sum()) for p in self.trainable.values())

    def score(self, images: Tensor, labels: Tensor, classes: Tensor | None = None) -> Scores:
        """Score N samples: images [N, …], labels [N] int64.

        With `classes` the loss is over these classes alone; every label must be among them.
        """
        loss = CrossEntropy(labels, classes)
        if self._gradients is not None:
            kept = _Kept(loss)
            found = self._gradients.reduce(
                images, kept, lambda: _Norms(len(images), images.device, self.trainable, self._wants_inner)
            )
            inner = found.inner.cpu() if self._wants_inner else None
            of_label = self._by_input(images, loss)[1] if self._of_label else None
            return Scores(found.losses.cpu(), found.squares.cpu(), inner, kept.logits, of_label)
        if self.gradient == "none" and not self._of_label:
            with torch.no_grad():
                logits = forward(self.model, images)
                return Scores(loss.losses(logits, labels).cpu(), None, None, logits)
        logits, of_label, losses, squares = self._by_input(images, loss)
        return Scores(losses, squares, None, logits, of_label)

    def _by_input(
        self, images: Tensor, loss: CrossEntropy
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Logits, the gradient of the label's one where it is wanted, losses, and ‖∇_x ℓ‖² where that is."""
        inputs, squares, of_label = images.detach().requires_grad_(), None, None
        by_loss = self.gradient == "input"
        with frozen(self.trainable), torch.enable_grad(), guard(NO_GRADIENT):
            with one_sample.exact(inputs):
                logits = self.model(inputs.clone())  # some networks write into their input
            losses = loss.losses(logits, loss.labels)
            if by_loss:
                (gradient,) = torch.autograd.grad(losses.sum(), inputs, retain_graph=self._of_label)
                squares = gradient.flatten(1).double().square().sum(1).cpu()
            if self._of_label:
                chosen = logits.gather(1, loss.labels[:, None]).sum()
                of_label = torch.autograd.grad(chosen, inputs)[0].detach().float().cpu()
        return logits.detach(), of_label, losses.detach().cpu(), squares


class _Norms(Reduction):
    """Losses, ‖∇ℓ_i‖² and ⟨θ, ∇ℓ_i⟩, float64 [N] each."""

    def __init__(
        self, count: int, device: torch.device, parameters: Mapping[str, nn.Parameter], wants_inner: bool
    ) -> None:
        self._parameters, self._wants_inner = parameters, wants_inner
        self.losses, self.squares, self.inner = torch.zeros(3, count, dtype=torch.float64, device=device)

    def hear(self, rows: slice, use: Use, call: Call) -> None:
        squares, inner = use.rule.norms(call, use.whole.keys(), self._wants_inner)
        self.squares[rows] += squares
        if inner is not None:
            self.inner[rows] += inner

    def take(self, rows: slice, losses: Tensor, gradients: Mapping[str, Tensor]) -> None:
        self.losses[rows] = losses
        for name, gradient in gradients.items():
            flat = weights.flat(by_sample(gradient)).view(len(gradient), -1)
            self.squares[rows] += flat.square().sum(1)
            if self._wants_inner:
                self.inner[rows] += flat @ weights.flat(self._parameters[name])

    def differs(self, exact: Reduction) -> str:
        assert isinstance(exact, _Norms)
        close = torch.allclose(self.squares, exact.squares, rtol=AGREE, atol=0.0)
        if close or not bool(torch.isfinite(exact.squares).all()):
            return ""
        found, expected = (squares[:CHECKED].tolist() for squares in (self.squares, exact.squares))
        return f"squared norms of {found} differ from {expected}, those of single samples"
