"""The second half of `mcx demo --full`: a run with flipped labels, and what its samples tell of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modeconn_cli.engine import train
from modeconn_cli.engine.csl import aggregate, score
from modeconn_cli.engine.csl.aggregate import CslAggregateResult
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.csl import CslAggregateSettings, CslScoreSettings
from modeconn_cli.engine.settings.train import TrainSettings

NOISE = 0.05
PARTS = 3

S = TypeVar("S", contravariant=True)
R = TypeVar("R", covariant=True)


class Command(Protocol[S, R]):
    def __call__(self, settings: S, runtime: Runtime, /) -> R | None: ...


class Teller(Protocol):
    """Runs one command as a part of the story."""

    def part(self, text: str, command: Command[S, R], settings: S) -> R: ...


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Labels flipped in a run of the digits, and how well each metric finds them (`auroc`)."""

    noise: float
    flipped: int
    epochs: int
    auroc: dict[str, float | None]
    hardest: list[dict[str, float | int]]
    hardest_flipped: int  # of the hardest samples
    pictures: str
    folder: str


def tell(teller: Teller, folder: Path, epochs: int, machine: dict[str, Any]) -> Samples:
    """Train with 5 % of the labels flipped, score every epoch, aggregate."""
    teller.part(
        "trained with 5 % of the labels flipped",
        train.run,
        TrainSettings(
            model="cnn", dataset="digits", seeds=(0,), epochs=epochs, lr=0.1, save_freq=1, label_noise=NOISE,
            output_dir=folder / "checkpoints", **machine,
        ),
    )  # fmt: skip
    teller.part(
        "scored every sample at every epoch",
        score.run,
        CslScoreSettings(
            checkpoint_dir=folder / "checkpoints" / "seed0",
            output_dir=folder / "per_sample_losses",
            **machine,
        ),
    )
    found: CslAggregateResult = teller.part(
        "summed the losses",
        aggregate.run,
        CslAggregateSettings(input_dir=folder / "per_sample_losses", output_dir=folder / "csl"),
    )
    return Samples(
        noise=NOISE,
        flipped=found.flipped or 0,
        epochs=found.num_epochs,
        auroc=found.auroc,
        hardest=found.hardest,
        hardest_flipped=sum(bool(row.get("flipped")) for row in found.hardest),
        pictures=next(path for path in found.figures if path.endswith("_samples.png")),
        folder=str(folder),
    )
