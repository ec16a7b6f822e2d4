"""Losses and squared gradient norms of every sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.layout import Unclear
from modeconn_cli.engine.samples.per_sample import fallback
from modeconn_cli.engine.samples.per_sample.passes import Passes
from modeconn_cli.engine.samples.per_sample.rules import Met, by_sample
from modeconn_cli.engine.samples.per_sample.uses import Use
from modeconn_cli.engine.training.evaluation import among

Gradient = Literal["param", "input", "none"]
CHECKED, AGREE = 3, 1e-3  # samples that are compared with a loop of one first, and how far they may be off


@dataclass(frozen=True)
class Scores:
    """Of N samples, float64 [N] on the CPU: cross-entropy in nats, ‖∇ℓ_i‖², and ⟨θ, ∇ℓ_i⟩; None where not asked for."""

    losses: Tensor
    squares: Tensor | None
    inner: Tensor | None


class PerSample:
    """Scores batches under a model's present weights; `refresh` after they have changed.

    `gradient` is by the trainable parameters, by the input, or none. Costs one forward pass, and one backward pass
    that computes no weight gradients; how the norms by parameters come about is said in `method`.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        gradient: Gradient,
        *,
        inner: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model.eval()
        self.gradient, self.wants_inner = gradient, inner
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.method = "none" if gradient == "none" else "one backward pass"
        self._note = note
        self._passes: Passes | None = None
        self._checked = False
        if gradient == "param":
            self._prepare(input_shape)

    def _prepare(self, input_shape: tuple[int, ...]) -> None:
        try:
            self._passes = Passes(self.model, input_shape, self.trainable)
        except (InputError, Unclear) as error:
            self._fall_back(str(error))

    def _fall_back(self, reason: str) -> None:
        self._passes, self.method = None, "torch.func in chunks"
        short = reason.splitlines()[0][:160]
        self._note(f"gradient norms sample by sample with torch.func, which is slower: {short}")

    def refresh(self) -> None:
        """Take up the model's present weights."""
        if self._passes is not None:
            self._passes.refresh()

    def square_norm(self) -> float:
        """‖θ‖² of the trainable parameters."""
        return sum(float(p.detach().double().square().sum()) for p in self.trainable.values())

    def score(self, images: Tensor, labels: Tensor, classes: Tensor | None = None) -> Scores:
        """Score N samples: images [N, …], labels [N] int64.

        With `classes` the loss is over these classes alone; every label must be among them.
        """

        def losses(logits: Tensor, labels: Tensor) -> Tensor:
            logits, labels = among(logits, labels, classes)
            # In float64: the losses of learnt samples are far below float32's distance from 1.
            return F.cross_entropy(logits.double(), labels, reduction="none")

        if self.gradient == "none":
            with torch.no_grad():
                return Scores(losses(self.model(images), labels).cpu(), None, None)
        if self.gradient == "input":
            return self._by_input(images, labels, losses)
        if self._passes is not None:
            try:
                self._check(images[:CHECKED], labels[:CHECKED], losses)
                return self._by_parameters(images, labels, losses)
            except Unclear as error:
                self._fall_back(str(error))
        return Scores(*fallback.score(self.model, self.trainable, images, labels, losses, self._note))

    def _check(self, images: Tensor, labels: Tensor, losses: fallback.Losses) -> None:
        """Before the first batch: raises Unclear where a rule gives another norm than plain autograd does."""
        if self._checked:
            return
        self._checked = True
        found = self._by_parameters(images, labels, losses).squares
        exact = fallback.one_by_one(self.model, self.trainable, images, labels, losses)[1]
        assert found is not None
        if bool(torch.isfinite(exact).all()) and not torch.allclose(found, exact, rtol=AGREE, atol=0.0):
            raise Unclear(
                f"squared norms of {found.tolist()} differ from {exact.tolist()}, those of single samples"
            )

    def _by_input(self, images: Tensor, labels: Tensor, losses: fallback.Losses) -> Scores:
        images = images.detach().requires_grad_()
        with Frozen(self.trainable), torch.enable_grad():
            found = losses(self.model(images), labels)
            (gradient,) = torch.autograd.grad(found.sum(), images)
        squares = gradient.flatten(1).double().square().sum(1)
        return Scores(found.detach().cpu(), squares.cpu(), None)

    def _by_parameters(self, images: Tensor, labels: Tensor, losses: fallback.Losses) -> Scores:
        assert self._passes is not None
        step = self._passes.step or len(images)
        parts = [
            self._pass(a, b, losses)
            for a, b in zip(torch.split(images, step), torch.split(labels, step), strict=True)
        ]
        return Scores(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))

    def _pass(self, images: Tensor, labels: Tensor, losses: fallback.Losses) -> tuple[Tensor, Tensor, Tensor]:
        """One forward and one backward pass."""
        assert self._passes is not None
        squares, inner = (
            torch.zeros(len(images), dtype=torch.float64, device=images.device) for _ in range(2)
        )

        def heard(use: Use, met: Met) -> None:
            square, along = use.rule.measure(met, set(use.whole), self.wants_inner)
            squares.add_(square)
            if along is not None:
                inner.add_(along)

        found, collected = self._passes.run(images, lambda logits: losses(logits, labels), heard)
        for name, gradient in collected.items():
            flat = by_sample(gradient)
            squares += flat.square().sum(1)
            inner += flat @ self.trainable[name].detach().flatten()
        return found, squares, inner


class Frozen:
    """Parameters take no gradients inside the block."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._parameters = parameters

    def __enter__(self) -> None:
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
