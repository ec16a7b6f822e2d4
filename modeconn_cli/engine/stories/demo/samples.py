"""The second half of `mcx demo --full`: a run with flipped labels, and what its samples tell of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import pandas as pd

from modeconn_cli.engine.commands import correlate, curvature, train
from modeconn_cli.engine.commands import dormant as dormancy
from modeconn_cli.engine.commands.correlate import CorrelateResult
from modeconn_cli.engine.commands.csl import aggregate, score
from modeconn_cli.engine.commands.csl.aggregate import CslAggregateResult
from modeconn_cli.engine.commands.csl.naming import LABEL_NOISE, Run
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.settings.correlate import CorrelateSettings
from modeconn_cli.engine.settings.csl import CslAggregateSettings, CslScoreSettings
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.settings.dormant import DormantSettings
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.statistics import Correlation

NOISE = 0.05
PARTS = 6
MEASURED = 5  # epochs at which curvature and dormancy are measured
SHOWN = ("csl", "lt", "curvature", "dormant_prop", "dormant_post")

S = TypeVar("S", contravariant=True)
R = TypeVar("R", covariant=True)


class Command(Protocol[S, R]):
    def __call__(self, settings: S, runtime: Runtime, /) -> R | None: ...


class Teller(Protocol):
    """Runs one command as a part of the story."""

    def part(self, text: str, command: Command[S, R], settings: S) -> R: ...


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Labels flipped in a run of the digits, how well each metric finds them (`auroc`), and what the metrics share.

    `hardest`: the rows of `per_sample.csv` with the largest CSL.
    """

    noise: float
    flipped: int
    epochs: int
    auroc: dict[str, float | None]
    hardest: list[dict[str, Any]]
    hardest_flipped: int  # of the hardest samples
    correlations: list[Correlation]
    pictures: str
    figure: str
    per_sample: str
    folder: str


def tell(teller: Teller, folder: Path, epochs: int, machine: dict[str, Any]) -> Samples:
    """Train with 5 % of the labels flipped, score every sample by every metric, join and correlate."""
    teller.part(
        "trained with 5 % of the labels flipped",
        train.run,
        TrainSettings(
            model="cnn", dataset="digits", seeds=(0,), epochs=epochs, lr=0.1, save_freq=1, label_noise=NOISE,
            output_dir=folder / "checkpoints", **machine,
        ),
    )  # fmt: skip
    run = folder / "checkpoints" / "seed0"
    found = _losses(teller, folder, run, machine)
    step = max(1, epochs // (MEASURED - 1))
    teller.part(
        "measured the curvature of every sample's loss",
        curvature.run,
        CurvatureSettings(checkpoint_dir=run, epoch_step=step, output_dir=folder / "curvature", **machine),
    )
    teller.part(
        "found the units that every sample leaves inactive",
        dormancy.run,
        DormantSettings(checkpoint_dir=run, epoch_step=step, output_dir=folder / "dormant", **machine),
    )
    noise = Run(found.dataset, found.run_idx, found.noise_level).aggregated(LABEL_NOISE, ".csv")
    joined: CorrelateResult = teller.part(
        "joined and correlated all metrics",
        correlate.run,
        CorrelateSettings(
            csl=folder / "csl", curvature=folder / "curvature", dormant=folder / "dormant",
            flags=folder / "per_sample_losses" / noise, output_dir=folder / "correlations",
        ),
    )  # fmt: skip
    hardest = _rows(
        folder / "correlations" / correlate.PER_SAMPLE, [row["sample_id"] for row in found.hardest]
    )
    return Samples(
        noise=NOISE,
        flipped=found.flipped or 0,
        epochs=found.num_epochs,
        auroc={each.metric: each.auroc for each in joined.auroc},
        hardest=hardest,
        hardest_flipped=sum(bool(row["flipped"]) for row in hardest),
        correlations=joined.correlations,
        pictures=next(path for path in found.figures if path.endswith("_samples.png")),
        figure=str(folder / "correlations" / correlate.SCATTER),
        per_sample=str(folder / "correlations" / correlate.PER_SAMPLE),
        folder=str(folder),
    )


def _losses(teller: Teller, folder: Path, run: Path, machine: dict[str, Any]) -> CslAggregateResult:
    """Every sample's loss at every epoch, and their sums."""
    teller.part(
        "scored every sample at every epoch",
        score.run,
        CslScoreSettings(checkpoint_dir=run, output_dir=folder / "per_sample_losses", **machine),
    )
    return teller.part(
        "summed the losses",
        aggregate.run,
        CslAggregateSettings(input_dir=folder / "per_sample_losses", output_dir=folder / "csl"),
    )


def _rows(path: Path, ids: list[Any]) -> list[dict[str, Any]]:
    """The rows of some samples, in that order."""
    frame = pd.read_csv(path).set_index("sample_id", drop=False).loc[ids]
    found = frame[["sample_id", *SHOWN, "flipped", "category"]].to_dict("records")
    return cast("list[dict[str, Any]]", found)
