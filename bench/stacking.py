"""An epoch of 64 small networks at once against one after the other, each in the same loop."""

from __future__ import annotations

from pathlib import Path

from bench.pairs import Pair
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.digits import digits
from modeconn_cli.engine.datasets.transforms import named
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.models.mlp import mlp
from modeconn_cli.engine.training import Recipe, members
from modeconn_cli.engine.training.stack import Stack

COUNT, SHARE = 64, 0.7


def prepare(_folder: Path) -> Pair:
    """The networks go on from where the epoch before has left them, on both sides."""
    source = digits().train
    assert not hasattr(source.images, "read")  # they lie in memory
    samples = Samples(source.images, source.labels, source.ids, named("half", 1))  # type: ignore[arg-type]
    recipe = Recipe(
        epochs=1, lr=0.05, momentum=0.9, weight_decay=0.0, optimizer="sgd", schedule="constant", batch_size=63,
        seed=0, data_seed=0,
    )  # fmt: skip
    of = members.members(range(COUNT), samples.ids, SHARE, seed=0)
    runtime = Runtime()
    stack = Stack(mlp((1, 8, 8), 10), [mlp((1, 8, 8), 10) for _ in of], 0.0)
    alone = [members.Alone(mlp((1, 8, 8), 10), 0.0) for _ in of]

    def ours() -> None:
        members.train(stack, of, samples, recipe, runtime)

    def reference() -> None:
        for member, network in zip(of, alone, strict=True):
            network.train(member, samples, recipe, runtime)

    return Pair(ours, reference)
