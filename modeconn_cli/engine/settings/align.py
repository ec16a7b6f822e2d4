"""Settings of `mcx align`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import setting
from modeconn_cli.engine.settings.shared import ComputeSettings, OverwriteSettings, TracedSettings


@dataclass(frozen=True, kw_only=True)
class AlignSettings(TracedSettings, ComputeSettings, OverwriteSettings):
    """Find the permutations that bring networks together."""

    checkpoints: tuple[Path, ...] = setting(
        (),
        "the networks whose units are permuted, each as path or label=path",
        positional=True,
        missing=("no network to align", "mcx align MOVING.pt --to FIXED.pt --output FILE"),
    )
    to: Path | None = setting(None, "the network that they are aligned to, which stays as it is")
    cycle: bool = setting(
        False, "align all to each other, in a common frame, in which any cycle is the identity"
    )
    restarts: int = setting(1, "starts: from outside in, and random ones beyond the first", low=1)
    output: Path | None = setting(None, "of one network: file of the aligned one", change="free", absent=True)
    output_dir: Path | None = setting(
        None, "of several: folder of the aligned ones, each <label>.pt", change="free", absent=True
    )

    @property
    def sources(self) -> tuple[Path, ...]:
        moving = tuple(names.label_and_path(word)[1] for word in self.checkpoints)
        return moving if self.to is None else (self.to, *moving)

    def check(self) -> None:
        super().check()
        if self.cycle == (self.to is not None):
            raise SettingsError(
                "--to and --cycle exclude each other" if self.cycle else "no network to align to",
                "pass --to FIXED.pt, or --cycle for networks that are aligned to each other",
            )
        if self.cycle and len(self.checkpoints) < 2:
            raise SettingsError("--cycle needs two networks or more", "mcx align A.pt B.pt C.pt --cycle …")
        if (self.output is None) == (self.output_dir is None):
            raise SettingsError(
                "no place for the aligned networks" if self.output is None else "two places to write to",
                "pass --output FILE for one network, --output-dir DIR for several",
            )
        if self.output is not None and (self.cycle or len(self.checkpoints) > 1):
            raise SettingsError("--output is for one network", "pass --output-dir DIR")
