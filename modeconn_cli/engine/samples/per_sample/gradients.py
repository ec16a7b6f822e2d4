"""Every sample's gradient by the parameters, reduced to what is wanted of it: on the graph, or by the fallback."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.networks.sample_axis import Inseparable
from modeconn_cli.engine.samples.per_sample import fallback
from modeconn_cli.engine.samples.per_sample.backward import Backward
from modeconn_cli.engine.samples.per_sample.execution import own_backward
from modeconn_cli.engine.samples.per_sample.fallback import Loss
from modeconn_cli.engine.samples.per_sample.rules import Call
from modeconn_cli.engine.samples.per_sample.uses import Use
from modeconn_cli.engine.training.evaluation import among

CHECKED, AGREE = 3, 1e-3  # samples that are compared with a loop of one first, and how far they may be off


@dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy in nats, by the batch's labels [N] int64.

    With `classes` it is over these alone, among which all labels are.
    """

    labels: Tensor
    classes: Tensor | None = None

    def targets(self, logits: Tensor, rows: slice) -> Tensor:  # noqa: ARG002
        return self.labels[rows]

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits, targets = among(logits, targets, self.classes)
        return cross_entropy(logits, targets)


class Reduction(ABC):
    """What is wanted of the gradients of a batch's samples; it is told of some rows after the other."""

    @abstractmethod
    def hear(self, rows: slice, use: Use, call: Call) -> None:
        """Take up one use of parameters of its own, whose gradients are not made."""

    @abstractmethod
    def take(self, rows: slice, losses: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Take up losses [n] and all other gradients, [n, …] by the parameter's name."""

    @abstractmethod
    def differs(self, exact: Reduction) -> str:
        """Name what is further than AGREE from what plain autograd gives; nothing where all agrees."""


R = TypeVar("R", bound=Reduction)


class SampleGradients:
    """Gradients of single samples by parameters, under a model's present weights; `refresh` after they have changed.

    Costs one forward pass, and one backward pass that computes no weight gradients, where the graph tells samples and
    rules apart; `note` hears where it does not. `what` is what the notes call the quantity.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        parameters: dict[str, nn.Parameter],
        what: str,
        note: Callable[[str], None],
    ) -> None:
        self._model, self._parameters, self._what = model, parameters, what
        self._note, self._said = note, set[str]()
        self._checked, self._in_chunks = False, fallback.batches_pay(parameters)
        self._backward: Backward | None = None
        try:
            if any(p.is_complex() for p in parameters.values()):
                raise Inseparable("parameters are complex")
            self._backward = Backward(model, input_shape, parameters)
        except (InputError, Inseparable) as error:
            self._fall_back(str(error))

    @property
    def method(self) -> str:
        """How the gradients come about."""
        if self._backward is not None:
            return "one backward pass"
        return "torch.func in chunks" if self._in_chunks else "one sample at a time"

    def _fall_back(self, reason: str) -> None:
        self._backward = None
        how = "with torch.func in chunks" if self._in_chunks else "one sample at a time"
        self._say(f"{self._what} {how}, which is slower: {reason.splitlines()[0][:160]}")

    def _say(self, text: str) -> None:
        """Tell the user, once."""
        if text not in self._said:
            self._said.add(text)
            self._note(text)

    def refresh(self) -> None:
        """Take up the model's present weights."""
        if self._backward is not None:
            self._backward.refresh()

    def reduce(self, images: Tensor, loss: Loss, new: Callable[[], R]) -> R:
        """What is wanted of N samples, images [N, …]; `new` makes what takes it up."""
        if self._backward is not None:
            try:
                self._check(images[:CHECKED], loss, new)
                return self._by_graph(self._backward, images, loss, new())
            except (InputError, Inseparable) as error:
                self._fall_back(str(error))
        found = new()
        ways = (self._model, self._parameters, images, loss)
        for part in (
            fallback.gradients(*ways, self._refused) if self._in_chunks else fallback.one_by_one(*ways)
        ):
            found.take(*part)
        return found

    def _refused(self, reason: str) -> None:
        """Say that torch.func does not take the network, and do not ask again."""
        self._in_chunks = False
        self._say(reason)

    def _check(self, images: Tensor, loss: Loss, new: Callable[[], R]) -> None:
        """Before the first batch: raises Inseparable where a rule gives something else than plain autograd does."""
        if self._checked or self._backward is None:
            return
        self._checked = True
        if own := own_backward(self._model, images):
            raise Inseparable(f"{own} has a backward of its own")
        found, exact = self._by_graph(self._backward, images, loss, new()), new()
        for part in fallback.one_by_one(self._model, self._parameters, images, loss):
            exact.take(*part)
        if difference := found.differs(exact):
            raise Inseparable(difference)

    @staticmethod
    def _by_graph(backward: Backward, images: Tensor, loss: Loss, found: R) -> R:
        step = backward.step or max(len(images), 1)
        for start in range(0, len(images), step):
            rows = slice(start, min(start + step, len(images)))

            def losses(logits: Tensor, rows: slice = rows) -> Tensor:
                return loss.losses(logits, loss.targets(logits, rows))

            def heard(use: Use, call: Call, rows: slice = rows) -> None:
                found.hear(rows, use, call)

            found.take(rows, *backward.run_batch(images[rows], losses, heard))
        return found
