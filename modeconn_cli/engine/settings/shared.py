"""Settings that many commands share: the network, the data, the machine, the output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.registry import canonical_dataset, canonical_model
from modeconn_cli.engine.settings.base import Panel, Settings, like, setting, specs, without_effect

TransformName = Literal["none", "vgg", "resnet", "cifar100", "imagenet", "mnist", "half"]
BatchNorm = Literal["recompute", "keep", "lerp", "repair", "none"]
ON_IMAGES = "recompute", "repair"  # the policies that look at training images

Align = Literal["none", "weights", "activations"]  # as `mcx align --method` does

SplitName = Literal["fit", "val", "all-train", "test"]

_FROM_FILE = "from the checkpoint"


PATRINI = "that of Patrini et al. for cifar10 and mnist, next for others"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings):
    """Which network."""

    panel: ClassVar[Panel] = "Network"

    model: str | None = setting(
        None,
        "registered name, torchvision:NAME, timm:NAME or pkg.mod:factory, whose code runs",
        shown=_FROM_FILE,
        canonical=canonical_model,
    )
    num_classes: int | None = setting(None, "number of classes", low=1, shown=_FROM_FILE, rare=True)
    input_shape: tuple[int, ...] = setting(
        (), "shape C,H,W of an input where neither data nor checkpoint say it", low=1, repeats=True, rare=True
    )
    model_arg: tuple[str, ...] = setting(
        (),
        "argument of the network's factory, key=value, comma-listed",
        repeats=True,
        gathers=True,
        rare=True,
    )

    @property
    def sources(self) -> tuple[Path, ...]:
        """The checkpoints, or folders of them, that say which network and which data where these settings do not.

        The first that knows its data speaks for all, else the first of all.
        """
        return ()

    @property
    def from_checkpoint(self) -> frozenset[str]:
        """The settings that are taken from the checkpoint where they say nothing: those that have an effect."""
        return frozenset(spec.name for spec in specs(type(self))) - set(self.idle())


@dataclass(frozen=True, kw_only=True)
class FileSettings(Settings):
    """Where a network's weights lie in a file."""

    panel: ClassVar[Panel] = "Network"

    state_key: str | None = setting(
        None,
        "entry of the files that holds the weights, dotted for nesting; of one file: FILE::ENTRY",
        rare=True,
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings(FileSettings, NetworkSettings):
    """Which network, and where its weights lie in a file."""


@dataclass(frozen=True, kw_only=True)
class LabelledNetworksSettings(ModelSettings):
    """Several networks of one architecture, each under a label of its own."""

    checkpoints: tuple[Path, ...] = setting(
        (), "the networks, each as path or label=path", positional=True, labelled=True
    )

    @property
    def sources(self) -> tuple[Path, ...]:
        return tuple(names.label_and_path(word)[1] for word in self.checkpoints)


@dataclass(frozen=True, kw_only=True)
class PermutationSettings(Settings):
    """How the units of the second of two networks are permuted."""

    permutation: Path | None = setting(
        None,
        "units of the second network: an .npz of mcx align, whose orders are applied, or the <stem>_metadata.json of "
        "the swap that made it from the first, which is undone",
    )


@dataclass(frozen=True, kw_only=True)
class TracedSettings(ModelSettings):
    """Which network, for commands that follow its graph and need no data."""

    panel: ClassVar[Panel] = "Network"

    input_shape: tuple[int, ...] = like(NetworkSettings, "input_shape", unless="input_tokens")
    input_tokens: int | None = setting(
        None, "number of tokens in an input, for a network that embeds whole numbers", low=1, rare=True
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Which samples, and what is done to them before the network sees them."""

    panel: ClassVar[Panel] = "Data"

    dataset: str | None = setting(
        None,
        "registered name, folder of class folders, .npz or pkg.mod:factory, whose code runs; normalised by "
        "--transform or --mean, --std",
        shown=_FROM_FILE,
        canonical=canonical_dataset,
    )
    data_path: Path | None = setting(None, "folder of the data", change="free", machine=True, absent=True)
    data_arg: tuple[str, ...] = setting(
        (),
        "argument of the data set, key=value, comma-listed; of a folder of images channels=1 or 3",
        repeats=True,
        rare=True,
    )
    use_test: bool = setting(
        True, "evaluate on the test images; --no-use-test: on the validation images", rare=True
    )
    val_size: int | None = setting(
        None,
        "images cut from the end of the training file for validation",
        low=0,
        shown="0; a tenth with --no-use-test",
        rare=True,
    )
    val_per_class: int | None = setting(
        None, "images of each class, its first ones, kept for validation", low=1, shown="off", rare=True
    )
    transform: TransformName | None = setting(
        None,
        "normalisation and augmentation; --mean and --std say other statistics",
        shown="from the checkpoint, else the data set's",
        rare=True,
    )
    mean: tuple[float, ...] = setting(
        (), "channel means instead of the transform's, comma-listed", repeats=True, rare=True
    )
    std: tuple[float, ...] = setting((), "channel standard deviations, comma-listed", repeats=True, rare=True)
    image_size: int | None = setting(
        None, "resize images to N x N", low=1, high=1 << 14, shown="unchanged", rare=True
    )
    workers: int | None = setting(
        None,
        "processes that read image files",
        low=0,
        flags=("--num-workers",),
        shown="cores - 1, at most 8",
        change="free",
        machine=True,
        rare=True,
    )
    download: bool = setting(
        False, "fetch a torchvision data set that is missing", change="free", machine=True, rare=True
    )
    max_samples: int | None = setting(
        None, "use a seeded random subset of each split", low=1, shown="all", rare=True
    )
    label_noise: float | None = setting(
        None,
        "probability that a training label is flipped to another class",
        low=0,
        high=1,
        shown="from the checkpoint, else 0",
        rare=True,
    )
    label_seed: int | None = setting(
        None, "seed of the flips", low=0, shown="from the checkpoint, else the seed", rare=True
    )

    noise_kind: Literal["uniform", "asymmetric", "instance"] | None = setting(
        None,
        "which labels are flipped, and to what: any to any; by --noise-map; those that a teacher doubts, to its "
        "second choice",
        shown="from the checkpoint, else uniform",
        rare=True,
    )
    noise_map: str | None = setting(
        None,
        "what classes are flipped to by asymmetric noise: 9:1,2:0, next, or a YAML or JSON file",
        shown=f"from the checkpoint, else {PATRINI}",
        rare=True,
    )
    noise_file: Path | None = setting(
        None,
        "training labels of a file: label_noise.csv of a run, .npy, or FILE::worse_label of .npz or .pt (CIFAR-N)",
        shown="from the checkpoint, else none",
        rare=True,
    )

    def idle(self) -> dict[str, str]:
        clean = self.label_noise == 0
        return super().idle() | without_effect(
            clean, "with --label-noise 0", "label_seed", "noise_kind", "noise_map", "noise_file"
        )

    @property
    def unflipped(self) -> tuple[str, ...]:
        """The settings that make no difference where, with what a checkpoint has brought, no label is flipped."""
        return () if self.label_noise or self.noise_file is not None else ("labels",)

    @property
    def flips_by_seed(self) -> bool:
        """Whether the run's own seed decides which labels are flipped."""
        return bool(self.label_noise) and self.label_seed is None and self.noise_file is None


@dataclass(frozen=True, kw_only=True)
class MeasuredDataSettings(DataSettings):
    """Which samples, for commands that measure, which may read other labels than those that the run was trained on."""

    labels: Literal["trained", "clean"] = setting(
        "trained", "training labels with the run's label noise, or as they were", rare=True
    )

    def idle(self) -> dict[str, str]:
        return super().idle() | without_effect(self.label_noise == 0, "with --label-noise 0", "labels")


DATA = tuple(spec.name for spec in specs(MeasuredDataSettings))
NETWORK = (*(spec.name for spec in specs(NetworkSettings)), "input_tokens")


@dataclass(frozen=True, kw_only=True)
class ComputeSettings(Settings):
    """Which machine computes, and from which seed random numbers are drawn."""

    panel: ClassVar[Panel] = "Compute and processes"

    device: str = setting("auto", "auto, cpu, cuda or cuda:N", change="free")
    batch_size: int = setting(128, "samples per step", low=1, everywhere=True)
    seed: int = setting(0, "seed of every random number", low=0, everywhere=True)
    threads: int | None = setting(
        None,
        "CPU threads (results are byte-equal for equal threads)",
        low=1,
        high=1024,
        shown="cores / processes",
        change="free",
        rare=True,
    )
    deterministic: bool = setting(
        False, "only deterministic algorithms (CUDA; CPU always is)", change="free", rare=True
    )


@dataclass(frozen=True, kw_only=True)
class DistributedSettings(Settings):
    """Who shares the work."""

    panel: ClassVar[Panel] = "Compute and processes"

    nproc_per_node: str | None = setting(
        None,
        "processes to start here, a number or auto (one per GPU, else per core); torchrun and srun need no flag",
        shown="1",
        change="free",
        recorded=False,
    )
    dist: Literal["auto", "off"] = setting(
        "auto",
        "share the work with the other processes of torchrun or srun",
        change="free",
        recorded=False,
        rare=True,
    )
    dist_timeout: float = setting(
        600.0,
        "seconds without a sign of life after which a rank is given up",
        above=0,
        change="free",
        recorded=False,
        needs=("dist", "auto"),
        rare=True,
    )

    def __post_init__(self) -> None:
        count = self.nproc_per_node
        if count not in (None, "auto") and not (str(count).isdigit() and int(str(count)) > 0):
            raise SettingsError(f"--nproc-per-node takes a number of processes or auto, got '{count}'")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class OverwriteSettings(Settings):
    """Whether a file that is there may be replaced."""

    panel: ClassVar[Panel] = "Output"

    overwrite: bool = setting(False, "replace what is there", change="free")


@dataclass(frozen=True, kw_only=True)
class OptionalFolderSettings(OverwriteSettings):
    """Where a command that can do without keeps its files."""

    panel: ClassVar[Panel] = "Output"

    output_dir: Path | None = setting(
        None,
        "folder of the results",
        flags=("--save-dir",),
        keys=("output_root",),
        change="free",
        absent=True,
    )
    overwrite: bool = like(OverwriteSettings, "overwrite", needs=("output_dir",))
    resume: bool = setting(
        True,
        "continue what an earlier run into the folder began",
        change="free",
        needs=("output_dir",),
        rare=True,
    )


@dataclass(frozen=True, kw_only=True)
class FolderSettings(OptionalFolderSettings):
    """Where a job keeps its files."""

    output_dir: Path = like(
        OptionalFolderSettings, "output_dir", missing=("no folder for the results", "pass --output-dir DIR")
    )


FIGURE_FORMATS = ("png", "pdf", "svg")


@dataclass(frozen=True, kw_only=True)
class FigureSettings(Settings):
    """How figures are written. What they show does not depend on it."""

    panel: ClassVar[Panel] = "Output"
    drawn: ClassVar[tuple[str, ...]] = ()  # a command's own settings on which nothing but its figures depends

    figure_format: Literal["png", "pdf", "svg"] = setting(
        "png", "kind of file that figures are", change="free"
    )
    dpi: int = setting(200, "pixels per inch of PNG figures", low=30, high=2400, change="free")
    figure_title: bool = setting(
        True, "write titles over figures; --no-figure-title where a caption says it", change="free", rare=True
    )

    @property
    def undrawn(self) -> str:
        """Where no figure is drawn, as a refusal says it; empty where one is."""
        return "without --output-dir" if getattr(self, "output_dir", "") is None else ""

    def idle(self) -> dict[str, str]:
        return super().idle() | without_effect(bool(self.undrawn), self.undrawn, *FIGURES)

    def named(self, name: str) -> str:
        """The name of a figure's file, documented with `.png`, in the format that is asked for."""
        return f"{name.removesuffix('.png')}.{self.figure_format}"


FIGURES = tuple(spec.name for spec in specs(FigureSettings))


def in_every_format(name: str) -> tuple[str, ...]:
    """The names that a figure's file may have, by the one that is documented, which ends in `.png`."""
    return tuple(f"{name.removesuffix('.png')}.{each}" for each in FIGURE_FORMATS)
