"""Settings of `mcx l2`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import like, setting, without_effect
from modeconn_cli.engine.settings.scoring import RunFolderSettings
from modeconn_cli.engine.settings.shared import (
    DATA,
    NETWORK,
    Align,
    ComputeSettings,
    FigureSettings,
    MeasuredDataSettings,
    OverwriteSettings,
    PermutationSettings,
    SplitName,
    TracedSettings,
)

SHAPE = ("dataset", "data_arg", "image_size")  # what says how large images are

Metric = Literal["l2", "cosine", "fisher", "functional"]
Order = Literal[
    "normalized_l2", "raw_l2", "relative_distance", "relative", "cosine_distance", "fisher_distance"
]


@dataclass(frozen=True, kw_only=True)
class L2Settings(
    TracedSettings,
    MeasuredDataSettings,
    ComputeSettings,
    FigureSettings,
    RunFolderSettings,
    OverwriteSettings,
):
    """Measure how far apart checkpoints are."""

    checkpoints: tuple[Path, ...] = setting(
        (),
        "two checkpoints or more, each as path or label=path; or the folder of a run",
        positional=True,
        repeats=True,
    )
    checkpoint1: Path | None = setting(None, "the first checkpoint; distances are relative to its norm")
    checkpoint2: Path | None = setting(None, "the second checkpoint")
    metric: tuple[Metric, ...] = setting(
        ("l2",), "l2, cosine, fisher (on training samples), functional (on test samples), comma-listed"
    )
    output: Path | None = setting(None, "write the result as JSON", change="free", absent=True)
    output_dir: Path | None = setting(
        None, "of several: a JSON file per pair, a summary, figures", change="free", absent=True
    )
    pairs: Literal["first", "all"] = setting("first", "of several: which pairs, the first with each or all")
    show_top_k: int = setting(10, "number of layers listed", low=1)
    sort_by: Order = setting("normalized_l2", "order of the listed layers")
    include_buffers: bool = setting(False, "count the statistics of normalisation layers too")
    common: bool = setting(
        False, "compare the tensors that both have, by name and shape, and list what is left out"
    )
    modulo_permutation: bool = setting(
        False, "measure also with the swap undone that made one of a pair from the other (by its metadata)"
    )
    permutation: Path | None = like(
        PermutationSettings,
        "permutation",
        help="measure also with the units of the second network permuted: an .npz of "
        "mcx align, or the metadata of the swap that made it from the first",
    )
    align: Align = setting(
        "none",
        "measure also with the second network of each pair aligned to the first, as mcx align does, by weights or by "
        "activations on training images",
    )
    fisher: Literal["true", "empirical"] = setting(
        "true",
        "Fisher information of the network's own labels (summed over the classes, drawn above 100 of them), or of the "
        "data's",
    )
    fisher_samples: int = setting(1000, "samples that it is estimated on", low=1)
    split: SplitName | None = setting(
        None, "which samples", shown="all-train for fisher, test for functional"
    )
    allow_nonfinite: bool = setting(False, "accept NaN and infinity in the weights", rare=True)

    def __post_init__(self) -> None:
        metric = self.sort_by.removesuffix("_distance")
        if metric in ("cosine", "fisher") and metric not in self.metric:
            raise SettingsError(f"--sort-by {self.sort_by} needs that metric", f"--metric l2,{metric}")
        if self.common and (self.needs_data or self.permuted):
            raise SettingsError(
                "--common compares parts of networks, which compute nothing", "--metric l2,cosine"
            )
        super().__post_init__()

    def check(self) -> None:
        super().check()
        ways = [self.modulo_permutation, self.permutation is not None, self.align != "none"]
        if sum(ways) > 1:
            raise SettingsError("--modulo-permutation, --permutation and --align exclude each other")
        if self.permutation is not None and (len(self.words) != 2 or self.output_dir is not None):
            raise SettingsError("--permutation is for one pair", "--align weights finds one for each pair")

    @property
    def words(self) -> tuple[Path, ...]:
        """What is compared, as it was given by position or by flag."""
        return self.checkpoints or tuple(
            path for path in (self.checkpoint1, self.checkpoint2) if path is not None
        )

    def inputs(self) -> Iterator[Path]:
        # Of several each is measured that is there; a pattern means what fits it.
        if len(self.words) <= 2 and self.output_dir is None:
            yield from (names.file_of(path) for path in self.sources if not set("*?") & set(str(path)))

    @property
    def sources(self) -> tuple[Path, ...]:
        return tuple(names.label_and_path(word)[1] for word in self.words)

    @property
    def from_checkpoint(self) -> frozenset[str]:
        # Without data every network is taken for itself.
        return super().from_checkpoint if self.needs_data else frozenset()

    def idle(self) -> dict[str, str]:
        unread, named = not self.needs_data, self.model is not None or self.permuted
        informed, written = "fisher" in self.metric, self.output is not None or self.output_dir is not None
        labelled = informed and self.fisher == "empirical" and self.split != "test"
        where = "without fisher or functional in --metric"
        nor, none = f"{where}, or --align activations", f"{where}, --align activations or --model"
        return {
            **super().idle(),
            **without_effect(unread, nor, *(name for name in DATA if name not in SHAPE), "batch_size"),
            **without_effect(not self.asks_functions, where, "split"),
            **without_effect(unread and self.model is None, none, *SHAPE),
            **without_effect(unread and not named, none, *NETWORK),
            **without_effect(not self.permuted, "without permuted units", "input_tokens"),
            **without_effect(self.common, "with --common, which takes what the files hold", *NETWORK, *SHAPE),
            **without_effect(not labelled, "without --fisher empirical on training samples", "labels"),
            **without_effect(not informed, "without fisher in --metric", "fisher", "fisher_samples"),
            **without_effect(
                not informed and self.align != "weights",
                "without fisher in --metric or --align weights",
                "seed",
            ),
            **without_effect(not written, "without --output or --output-dir", "overwrite"),
        }

    @property
    def permuted(self) -> bool:
        """Whether distances are measured with permuted units too."""
        return self.modulo_permutation or self.permutation is not None or self.align != "none"

    @property
    def order(self) -> str:
        """`relative` is the arrays' word for `relative_distance`."""
        return "relative_distance" if self.sort_by == "relative" else self.sort_by

    @property
    def further(self) -> tuple[str, ...]:
        """The distances beside the documented ones that layers have."""
        return tuple(f"{name}_distance" for name in ("cosine", "fisher") if name in self.metric)

    @property
    def needs_data(self) -> bool:
        return self.asks_functions or self.align == "activations"

    @property
    def asks_functions(self) -> bool:
        """Whether networks are compared by what they compute."""
        return "fisher" in self.metric or "functional" in self.metric
