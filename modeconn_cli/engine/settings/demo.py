"""Settings of `mcx demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.settings.base import setting
from modeconn_cli.engine.settings.shared import FigureSettings


@dataclass(frozen=True, kw_only=True)
class DemoSettings(FigureSettings):
    """The whole story on the built-in digits."""

    output_dir: Path = setting(
        Path("results/demo"), "folder of the results", flags=("--save-dir",), change="free", absent=True
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", change="free")
    # Batches of 8 x 8 images are too small to share: on a busy machine two threads wait for each other.
    threads: int = setting(1, "CPU threads", low=1, change="free")
    epochs: int = setting(20, "epochs of each network", low=1)
    curve_epochs: int = setting(60, "epochs of each curve", low=1)
    full: bool = setting(
        False, "also train on flipped labels and find them: every sample at every epoch, half a minute more"
    )
    num_points: int = setting(61, "positions along each path", low=3)
