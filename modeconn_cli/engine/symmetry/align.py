"""Networks of one architecture brought together, by their weights or by how they act on training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import graph, weights
from modeconn_cli.engine.networks.graph import Graph
from modeconn_cli.engine.networks.subject import Needed, Subject
from modeconn_cli.engine.symmetry import activity, frame, match
from modeconn_cli.engine.symmetry.frame import Frame
from modeconn_cli.engine.symmetry.groups import Symmetry, find
from modeconn_cli.engine.symmetry.match import Matched, Progress

Method = Literal["weights", "activations"]
State = Mapping[str, Tensor]
NEEDED: dict[Method, Needed] = {"weights": "no data", "activations": "data without held-out images"}


def _silent(_done: int, _total: int, _unit: str, **_fields: object) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Aligner:
    """Finds permutations of networks whose whole state dicts have the names of `model`.

    `method` weights reads parameters alone; activations runs the networks on `fit` in batches of `batch_size`. `seed`
    and `restarts` as of `match.by_weights`. What is found is told of as progress is: how much, of how much, in what
    unit.
    """

    symmetry: Symmetry
    graph: Graph
    model: nn.Module
    method: Method
    fit: Samples | None
    batch_size: int
    seed: int
    restarts: int = 1

    @classmethod
    def of(
        cls, opened: Subject, method: Method, *, batch_size: int, seed: int, restarts: int = 1, hint: str = ""
    ) -> Aligner:
        """For the networks of a subject. Raises InputError, with the hint, where no units can be exchanged."""
        traced = graph.trace(opened.model, opened.arch.inputs(opened.model))
        found = find(traced)
        if not found.groups:
            reasons = "; ".join(f"{layer}: {why}" for layer, why in list(found.fixed.items())[:3])
            name = f"'{opened.checkpoints[0].path}'" if opened.checkpoints else opened.arch.model
            raise InputError(f"{name} has no units that can be exchanged: {reasons}", hint)
        fit = opened.data.fit if method == "activations" else None
        return cls(found, traced, opened.model, method, fit, batch_size, seed, restarts)

    def pair(
        self,
        fixed: State,
        moving: State,
        tell: Callable[..., None] = _silent,
        *,
        begun: Progress | None = None,
        keep: Callable[[Progress], None] = lambda _: None,
    ) -> Matched:
        """The order of the moving network's units; by weights it goes on from what has `begun` (`match.by_weights`)."""
        if self.fit is None:

            def swept(start: str, sweep: int, objective: float) -> None:
                tell(sweep, match.MOST_SWEEPS, "step", start=start, objective=objective)

            both = (weights.parameters_of(self.model, state) for state in (fixed, moving))
            return match.by_weights(
                self.symmetry,
                *both,
                seed=self.seed,
                restarts=self.restarts,
                tell=swept,
                begun=begun,
                keep=keep,
            )
        orders, alike = activity.by_activations(
            self.symmetry, self.graph, self._placed(fixed), self._placed(moving), self._batches(tell)
        )
        return Matched(orders, (alike,), "activations")

    def frame(self, states: Sequence[State], tell: Callable[..., None] = _silent) -> Frame:
        """The orders of all networks in one common frame, in which the first stays as it is."""
        if self.fit is None:
            own = [weights.parameters_of(self.model, state) for state in states]
            return frame.common_frame(
                self.symmetry,
                own,
                seed=self.seed,
                restarts=self.restarts,
                tell=lambda done, pairs: tell(done, pairs, "pair"),
            )
        placed = [self._placed(state) for state in states]
        return frame.common_frame_by_activations(self.symmetry, self.graph, placed, self._batches(tell))

    def _placed(self, state: State) -> dict[str, Tensor]:
        """The state where the images are."""
        assert self.fit is not None
        return {name: tensor.to(self.fit.device) for name, tensor in state.items()}

    def _batches(self, tell: Callable[..., None]) -> Callable[[], Iterator[Tensor]]:
        """Goes over the training images, as often as it is asked to."""

        def batches() -> Iterator[Tensor]:
            assert self.fit is not None
            done = 0
            for batch in self.fit.batches(self.batch_size):
                yield batch.images
                done += len(batch.images)
                tell(done, len(self.fit), "step")

        return batches
