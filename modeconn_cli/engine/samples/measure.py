"""What a command says of a score, so that `scoring` can take it of every sample at every checkpoint of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.results import listing
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples.log import Row, ScoredEpoch
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.settings.scoring import ScoringSettings

Settings = TypeVar("Settings", bound=ScoringSettings)
Result = TypeVar("Result", bound=Record)


class Measure(ABC, Generic[Settings, Row, Result]):
    """A score of samples under one checkpoint after the other, and the files in `folder` that it goes to.

    `columns` name the values that each sample has, `fields` the arrays with the shape of one sample's, float32; what
    else a batch yields adds up over samples. `row` is what is said
    of an epoch, `record` what is said in the end. `owned` are glob patterns of all files of the job in its folder;
    `key` tells it from other jobs of the same command there. `further` are words for what a batch yields only at times,
    so that parts without it are not taken for those with it. `ids` is the name of the file of the samples' ids, where
    all epochs share one, `listed` that of the table of the samples, where there is one.
    """

    row: type[Row]
    record: type[Result]
    columns: tuple[str, ...]
    fields: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    owned: Sequence[str]
    key = ""
    further: Sequence[str] = ()
    ids: str | None = None
    listed: str | None = listing.NAME

    def __init__(self, settings: Settings, run: ScoredRun, folder: Path, runtime: Runtime) -> None:
        self.settings, self.run, self.folder, self.runtime = settings, run, folder, runtime

    @abstractmethod
    def plan(self) -> str:
        """What is going to be done, in words."""

    def begin(self, checkpoint: Checkpoint) -> None:
        """The network has another epoch's weights, which are those of `checkpoint`."""

    @abstractmethod
    def batch(self, batch: Batch) -> dict[str, Tensor]:
        """Score a batch: columns [n], fields [n, …], and sums of any shape, float64."""

    @abstractmethod
    def files(self, epoch: int) -> list[Path]:
        """What `write` makes."""

    @abstractmethod
    def write(self, checkpoint: ScoredEpoch, whole: Mapping[str, np.ndarray]) -> Row:
        """Write the files of an epoch, with columns [N], fields [N, …] and sums; say what is in them.

        Samples that are not scored are NaN.
        """

    @abstractmethod
    def headline(self, row: Row) -> Mapping[str, float | None]:
        """What the progress line says of an epoch."""

    @abstractmethod
    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What the record says beside the settings that it repeats and what `scoring` knows."""

    @abstractmethod
    def finish(self, result: Result) -> list[Path]:
        """Write the summary of all epochs; every file of the job."""
