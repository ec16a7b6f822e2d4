"""Settings of `mcx dormant`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.scoring import ScoringSettings
from modeconn_cli.engine.settings.shared import FigureSettings, FolderSettings


@dataclass(frozen=True, kw_only=True)
class DormantSettings(FigureSettings, ScoringSettings):
    """Units that every sample leaves inactive."""

    output_dir: Path = like(FolderSettings, "output_dir", default=Path("dormant_results"))
    site: Literal["both", "pre", "post"] = setting(
        "both",
        "where units are looked at: pre, the outputs of convolutions and linear layers as documented; post, after "
        "each nonlinearity",
    )
    eps: float = setting(1e-6, "a value up to it counts as zero", low=0)
    tau: float = setting(
        0.1, "a unit whose mean |h| is at most tau times its layer's mean is tau-dormant", low=0
    )
    dormant_unit_threshold: float = setting(
        0.01,
        "a unit above eps on less than this share of samples and positions is frequency-dormant",
        low=0,
        high=1,
        flags=("--frequency",),
    )
    ranks: bool = setting(
        True,
        "ranks of the features of every layer, norms and dead units; --no-ranks saves their time",
    )

    def idle(self) -> dict[str, str]:
        return super().idle() | without_effect(not self.scores_by_seed, "without random labels", "seed")
