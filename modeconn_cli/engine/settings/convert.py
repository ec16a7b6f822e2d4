"""Settings of `mcx convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import setting
from modeconn_cli.engine.settings.shared import ModelSettings, OverwriteSettings

Layout = Literal["mcx", "garipov", "lmc", "bare"]


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(ModelSettings, OverwriteSettings):
    """Write a network or a curve in another layout."""

    places = (("checkpoint",),)

    checkpoint: Path = setting(
        None,
        "the file",
        flags=("--curve-checkpoint",),
        missing=("no checkpoint", "mcx convert FILE --layout … --output FILE"),
    )
    layout: Layout = setting(
        None,
        "whose files: mcx; garipov: dnn-mode-connectivity; lmc: linear mode connectivity, open_lth; bare: a state dict",
        missing=("no layout", "pass --layout mcx, garipov, lmc or bare"),
    )
    output: Path = setting(
        None,
        "file to write",
        change="free",
        absent=True,
        tensors=True,
        missing=("no file to write", "pass --output FILE.pt"),
    )
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", rare=True)

    @property
    def sources(self) -> tuple[Path, ...]:
        return () if self.checkpoint is None else (self.checkpoint,)
