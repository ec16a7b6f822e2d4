"""Settings of `mcx curvature`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import like, setting
from modeconn_cli.engine.settings.scoring import ScoringSettings
from modeconn_cli.engine.settings.shared import FigureSettings, FolderSettings


@dataclass(frozen=True, kw_only=True)
class CurvatureSettings(FigureSettings, ScoringSettings):
    """Curvature of every sample's loss around its input."""

    output_dir: Path = like(FolderSettings, "output_dir", default=Path("curvature_results"))
    h: float = setting(1e-3, "step along a direction, in normalised input units", above=0)
    niter: int = setting(10, "random directions per sample", low=1)
    temp: float = setting(1.0, "temperature of the softmax", above=0)
    method: Literal["fd", "hvp"] = setting(
        "fd",
        "difference of gradients as documented, or exact Hessian-vector products; in ReLU networks the difference "
        "sees the kinks between its two points, the product does not",
    )
    compat: Literal["garg"] | None = setting(
        None,
        "reproduce the original's numbers, which average the loss over the batch and so depend on --batch-size",
        shown="off",
    )
    sweep_h: tuple[float, ...] = setting(
        (),
        "instead of scoring, compare the scores of the last checkpoint over these steps, comma-listed",
        above=0,
    )
    sweep_niter: tuple[int, ...] = setting(
        (), "the same over these numbers of directions, comma-listed", low=1
    )

    @property
    def undrawn(self) -> str:
        return "" if self.last_alone else "without --sweep-h or --sweep-niter"

    @property
    def last_alone(self) -> bool:
        return bool(self.sweep_h or self.sweep_niter)
