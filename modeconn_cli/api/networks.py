"""Networks and curves as objects, with the data that belong to them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from modeconn_cli.api.commands import Answer, File, Progress, run
from modeconn_cli.api.words import settings_with, spoken
from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.settings.base import setting
from modeconn_cli.engine.settings.path import ChainSettings
from modeconn_cli.engine.settings.shared import (
    ComputeSettings,
    MeasuredDataSettings,
    ModelSettings,
    SplitName,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from modeconn_cli.engine.commands.curve.eval import CurveEvalResult
    from modeconn_cli.engine.datasets import Batch, Data, Samples
    from modeconn_cli.engine.datasets.transforms import Transform
    from modeconn_cli.engine.networks.checkpoints import About


@dataclass(frozen=True, kw_only=True)
class _LoadSettings(ModelSettings, MeasuredDataSettings, ComputeSettings):
    """One checkpoint."""

    checkpoint: Path = setting(None, "the file", missing=("no checkpoint", "load(FILE)"))

    @property
    def sources(self) -> tuple[Path, ...]:
        return (self.checkpoint,)


@dataclass(frozen=True, repr=False)
class Network:
    """A network with the weights of a checkpoint, and its data.

    `model` is on the device, in eval mode; `about` what the checkpoint says of itself; `data` None where nobody says
    which they are.
    """

    model: nn.Module
    about: About
    data: Data | None

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.model.parameters())
        said = [f"{self.about.model or type(self.model).__name__} of {count:,} parameters"]
        said += [f"on {self.data.name}"] if self.data is not None else ["without data"]
        return f"<Network: {', '.join(said)}>"

    @spoken()
    def samples(self, split: SplitName = "all-train") -> Samples:
        """The samples of a split (`fit`, `val`, `all-train` or `test`), in the order of their ids.

        Raises SettingsError for another split, ValueError for a network without data.
        """
        if split not in (known := get_args(SplitName)):
            raise SettingsError(
                f"there is no split '{split}': choose from {', '.join(known)}", did_you_mean(split, known)
            )
        if self.data is None:
            raise ValueError("the checkpoint names no data: load(…, dataset=…)")
        return self.data.split(split)

    def ids(self, split: SplitName = "all-train") -> np.ndarray:
        """Sample ids, int64 [N], ascending."""
        found: np.ndarray = self.samples(split).ids.cpu().numpy()
        return found

    def labels(self, split: SplitName = "all-train") -> np.ndarray:
        """Labels, int64 [N], in the order of the ids."""
        found: np.ndarray = self.samples(split).labels.cpu().numpy()
        return found

    @property
    def transform(self) -> Transform:
        """What is done to the images before the network sees them."""
        return self.samples("fit").transform

    def batches(self, split: SplitName = "all-train", batch_size: int = 128) -> Iterator[Batch]:
        """Batches of `images` float32 [B, C, H, W], as the network takes them, `labels` and `ids` [B], in id order."""
        return self.samples(split).batches(batch_size)


def load(checkpoint: File, **settings: Any) -> Network:
    """The network of a checkpoint, and the data that it or the settings name.

    Settings are those of network, data and machine: `model`, `dataset`, `device`, `state_key` …; `model` may be the
    class or function that makes the network. Raises SettingsError where nobody says which network it is, InputError
    for a file that cannot be used.
    """
    from modeconn_cli.engine.errors import NoDataSet
    from modeconn_cli.engine.machine.runtime import Silent, start
    from modeconn_cli.engine.networks import subject

    with spoken(_LoadSettings):
        chosen = settings_with(_LoadSettings, {"checkpoint": checkpoint, **settings})
        runtime = start(chosen, listener=Silent(), command="load")
        read = subject.read(chosen.checkpoint, chosen, runtime)
        try:
            found = subject.open_networks([read], chosen, runtime)
        except NoDataSet:
            found = subject.open_networks([read], chosen, runtime, "no data")
    return Network(found.model.eval(), found.about, found.loaded)


class Curve:
    """A trained curve, the straight line between two networks, or the chain of lines through more of them."""

    def __init__(self, files: Mapping[str, File | Sequence[File]], settings: Mapping[str, Any]) -> None:
        from modeconn_cli.engine.machine.runtime import Silent, start
        from modeconn_cli.engine.paths.opened import open_path

        self._files, self._settings = dict(files), dict(settings)
        with spoken(ChainSettings):
            chosen = settings_with(ChainSettings, {**self._files, **self._settings})
            self._opened = open_path(chosen, start(chosen, listener=Silent(), command="curve"))
            self._network = self._opened.network()

    def __repr__(self) -> str:
        return f"<Curve: {self.kind} of {' and '.join(map(str, self._opened.files))}>"

    @property
    def kind(self) -> str:
        """`bezier`, `polychain` or `line`."""
        return self._opened.path.kind

    @property
    def data(self) -> Data:
        """The data that the networks on it are measured on."""
        return self._opened.subject.data

    def at(self, t: float) -> nn.Module:
        """A copy of the network at position t, 0 to 1, in eval mode, with the batch norm statistics of that position
        (`bn` of the settings; recomputed on training images where nothing else is said). With `repair`, layers of the
        copy that have no bias are shifted by forward hooks, which a state dict does not hold. Raises SettingsError for
        a position beyond the ends.
        """
        if not 0 <= t <= 1:
            raise SettingsError(f"t must lie between 0 and 1, the ends of the curve, got {t}")
        self._network.move_to(t)
        return copy.deepcopy(self._network.model).eval()

    def evaluate(
        self, output_dir: File, num_points: int = 61, *, progress: Progress | None = None, **settings: Any
    ) -> Answer[CurveEvalResult]:
        """Loss, error and accuracy at equally spaced positions, as `mcx curve eval` measures and writes them."""
        asked = {**self._files, **self._settings, **settings, "num_points": num_points}
        return run("curve eval", progress=progress, output_dir=output_dir, **asked)


def curve(first: File, second: File | None = None, *more: File, **settings: Any) -> Curve:
    """The curve of a checkpoint of `mcx curve train`, the straight line between two networks, or the chain of lines
    through more of them.
    """
    if second is None:
        return Curve({"curve_checkpoint": first}, settings)
    if not more:
        return Curve({"endpoint0": first, "endpoint1": second}, settings)
    return Curve({"chain": (first, second, *more)}, settings)
