"""The second half of `mcx demo --full`: a run with flipped labels, and what its samples tell of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd

from modeconn_cli.engine.commands import correlate, curvature, train
from modeconn_cli.engine.commands import dormant as dormancy
from modeconn_cli.engine.commands.csl import aggregate, score
from modeconn_cli.engine.commands.csl.naming import LABEL_NOISE, RunName
from modeconn_cli.engine.settings.correlate import CorrelateSettings
from modeconn_cli.engine.settings.csl import CslAggregateSettings, CslScoreSettings
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.settings.dormant import DormantSettings
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.statistics import Correlation
from modeconn_cli.engine.stories.demo.parts import Parts

NOISE = 0.05
PARTS = 6
MEASURED = 5  # epochs at which curvature and dormancy are measured
SHOWN = ("csl", "lt", "curvature", "dormant_prop", "dormant_post")


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


def _hardest(path: Path, ids: list[Any]) -> list[dict[str, Any]]:
    """The rows of the joined table of some samples, in their order."""
    rows = pd.read_csv(path).set_index("sample_id", drop=False).loc[ids]
    found = rows[["sample_id", *SHOWN, "flipped", "category"]].to_dict("records")
    return cast("list[dict[str, Any]]", found)


def tell(parts: Parts, epochs: int) -> Samples:
    """Train with 5 % of the labels flipped, score every sample by every metric, join and correlate."""
    folder, machine = parts.root / "noisy", parts.machine
    run, losses, joined = (
        folder / "checkpoints" / "seed0",
        folder / "per_sample_losses",
        folder / "correlations",
    )
    parts.do(
        "trained with 5 % of the labels flipped",
        train.run,
        TrainSettings(
            model="cnn", dataset="digits", seeds=(0,), epochs=epochs, lr=0.1, save_freq=1, label_noise=NOISE,
            output_dir=run.parent, **machine,
        ),
    )  # fmt: skip
    parts.do(
        "scored every sample at every epoch",
        score.run,
        CslScoreSettings(checkpoint_dir=run, output_dir=losses, **machine),
    )
    found = parts.do(
        "summed the losses",
        aggregate.run,
        CslAggregateSettings(input_dir=losses, output_dir=folder / "csl", **parts.look),
    )
    step = max(1, epochs // (MEASURED - 1))
    parts.do(
        "measured the curvature of every sample's loss",
        curvature.run,
        CurvatureSettings(checkpoint_dir=run, epoch_step=step, output_dir=folder / "curvature", **machine),
    )
    parts.do(
        "found the units that every sample leaves inactive",
        dormancy.run,
        DormantSettings(
            checkpoint_dir=run, epoch_step=step, output_dir=folder / "dormant", **machine, **parts.look
        ),
    )
    noise = RunName(found.dataset, found.run_idx, found.noise_level).aggregated(LABEL_NOISE, ".csv")
    shared = parts.do(
        "joined and correlated all metrics",
        correlate.run,
        CorrelateSettings(
            csl=folder / "csl", curvature=folder / "curvature", dormant=folder / "dormant",
            flags=losses / noise, output_dir=joined, **parts.look,
        ),
    )  # fmt: skip
    hardest = _hardest(joined / correlate.PER_SAMPLE, [row["sample_id"] for row in found.hardest])
    return Samples(
        noise=NOISE,
        flipped=found.flipped or 0,
        epochs=found.num_epochs,
        auroc={each.metric: each.auroc for each in shared.auroc},
        hardest=hardest,
        hardest_flipped=sum(bool(row["flipped"]) for row in hardest),
        correlations=shared.correlations,
        pictures=next(path for path in found.figures if Path(path).stem.endswith("_samples")),
        figure=next(path for path in shared.files if Path(path).stem == "scatter"),
        per_sample=str(joined / correlate.PER_SAMPLE),
        folder=str(folder),
    )
