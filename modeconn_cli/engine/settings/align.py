"""Settings of `mcx align`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.shared import (
    DATA,
    ComputeSettings,
    LabelledNetworksSettings,
    MeasuredDataSettings,
    OptionalFolderSettings,
    OverwriteSettings,
    TracedSettings,
)


@dataclass(frozen=True, kw_only=True)
class AlignSettings(
    LabelledNetworksSettings, TracedSettings, MeasuredDataSettings, ComputeSettings, OptionalFolderSettings
):
    """Find the permutations that bring networks together."""

    checkpoints: tuple[Path, ...] = like(
        LabelledNetworksSettings,
        "checkpoints",
        help="the networks whose units are permuted, each as path or label=path",
        missing=("no network to align", "mcx align MOVING.pt --to FIXED.pt --output FILE"),
    )
    to: Path | None = setting(None, "the network that they are aligned to, which stays as it is")
    method: Literal["weights", "activations"] = setting(
        "weights", "match units by their weights, or by how they act on training images"
    )
    cycle: bool = setting(
        False, "align all to each other, in a common frame, in which any cycle is the identity"
    )
    restarts: int = setting(1, "starts: from outside in, and random ones beyond the first", low=1)
    output: Path | None = setting(
        None, "of one network: file of the aligned one", change="free", absent=True, tensors=True
    )
    output_dir: Path | None = like(
        OptionalFolderSettings, "output_dir", help="of several: folder of the aligned ones, each <label>.pt"
    )
    overwrite: bool = like(OverwriteSettings, "overwrite")

    @property
    def sources(self) -> tuple[Path, ...]:
        return super().sources if self.to is None else (self.to, *super().sources)

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

    @property
    def from_checkpoint(self) -> frozenset[str]:
        # By weights no data are looked for.
        return super().from_checkpoint - set(() if self.method == "activations" else DATA)

    def idle(self) -> dict[str, str]:
        by_weights = self.method == "weights"
        shape = ("dataset", "image_size", *(("data_arg", "data_path", "download") if self.dataset else ()))
        unread = [name for name in DATA if name not in shape]
        return {
            **super().idle(),
            **without_effect(by_weights, "with --method weights", *unread, "batch_size"),
            **without_effect(not by_weights, "with --method activations", "restarts"),
            **without_effect(
                bool(self.dataset) or not by_weights, "with a data set, of images", "input_tokens"
            ),
            **without_effect(self.input_tokens is not None, "with --input-tokens", "image_size"),
            **without_effect(True, "on images without labels", "labels"),
        }
