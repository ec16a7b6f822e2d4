"""Every file and folder name that mcx writes or looks for. Torch-free."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from modeconn_cli.engine.errors import SettingsError

JOB_FOLDER = ".mcx"
PROJECT_FILE = "mcx.yaml"
SETTINGS_FILE = "config.resolved.yaml"
WHOLE_FILE = "config.whole.yaml"  # of the command whose part a job is
RECORD_FILE = "record.json"
LOCK_FILE = "run.lock"
STATUS_FILE = "status.json"
MANIFEST_FILE = "manifest.json"
PROGRESS_FILE = "progress.json"  # of a job that has not finished

CHECKPOINTS = "checkpoints"
LAST = "last.pt"
METRICS = "metrics.jsonl"
LABEL_NOISE = "label_noise.csv"
ENDPOINT_DISTANCE = "endpoint_l2_distance.txt"
CURVE_ARRAYS = "curve.npz"
CURVE_SUMMARY = "curve_summary.json"
CURVE_FIGURE = "curve.png"
PLANE_ARRAYS = "plane.npz"
PLANE_SUMMARY = "plane_summary.json"
PLANE_FIGURE = "plane.png"
SHARPNESS_FIGURE = "sharpness.png"
LINE_ARRAYS, LINE_SUMMARY = "line.npz", "line_summary.json"
PREDICTIONS = "predictions.npz"
PREDICTION_CHANGES = "prediction_changes.csv"
PREDICTION_FIGURE = "prediction_changes.png"
NEVER = ("lt_first_epoch", "lt_stays")  # arrays in which NaN beside a learning time means never
LAYER_DISTANCES = "layer_distances_along_curve.npz"
ANALYSIS_SUMMARY = "analysis_summary.json"

# How the runs of other code bases name the checkpoint of an epoch.
_EPOCHS = tuple(
    re.compile(pattern)
    for pattern in (
        r"checkpoint-(\d+)\.pt",
        r"(?:checkpoint_)?index-\d+_epoch-(\d+)\.pt",
        r"model_checkpoint_.+_epoch_(\d+)\.pt",
        r".+_idx_\d+_epoch_(\d+)_noise_[\d.]+\.ckpt",
        r"model_ep(\d+)_it\d+\.pth",
        r"epoch_(\d+)\..+",
    )
)

# The weights in a folder that holds one checkpoint, as Hugging Face's trainers write them; the first that is there.
MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


# Entries of a checkpoint that are meant to hold the weights. Where one of them does, no other entry is asked.
STANDARD = ("model_state", "model_state_dict", "state_dict", "model", "net", "model_weights")

_OF_EPOCH = re.compile(
    r"(?:epoch|ep|e|step|iter|it|checkpoint|ckpt|model)?[-_=]?\d+", re.IGNORECASE
)  # folders

ENTRY = "::"  # between a checkpoint's file and the entry that holds the weights: A.pt::trainer.ema


def file_and_entry(path: Path) -> tuple[Path, str | None]:
    """The file that a path to a checkpoint means, and the entry of it, None where the path says none.

    A file that has the whole name is meant itself.
    """
    file, mark, entry = str(path).rpartition(ENTRY)
    if not (mark and file and entry) or os.path.lexists(path):
        return path, None
    return Path(file), entry


def file_of(path: Path) -> Path:
    """The file that a path to a checkpoint means, without the entry."""
    return file_and_entry(path)[0]


def with_entry(file: Path, entry: str | None) -> Path:
    """A path that means an entry of a file, the file itself where there is None."""
    return file if entry is None else Path(f"{file}{ENTRY}{entry}")


def label_and_path(word: Path) -> tuple[str, Path]:
    """The label of a checkpoint, empty where there is none, and its path.

    A word is `label=path` only where no file has that whole name, and one has the rest or a folder stands before it.
    """
    before, equals, after = str(word).partition("=")
    # Of a file that is not there it is a label all the same.
    meant = "/" in after or os.path.lexists(file_of(Path(after)))
    if equals and before and "/" not in before and meant and not os.path.lexists(file_of(word)):
        return before, Path(after)
    return "", word


def labelled(words: Sequence[Path]) -> dict[str, Path]:
    """label -> path, in the order given.

    Raises SettingsError where two checkpoints would get one label, or a label cannot be part of a file's name.
    """
    given = [label_and_path(word) for word in words]
    stems = Counter(_stem(path) for label, path in given if not label)
    folders = Counter(
        path.resolve().parent.name for label, path in given if not label and stems[_stem(path)] > 1
    )
    out: dict[str, Path] = {}
    for label, path in given:
        folder, stem = path.resolve().parent.name, _stem(path)
        colliding = folder if folders[folder] == 1 else f"{folder}_{stem}"
        name = label or (stem if stems[stem] == 1 else colliding)
        if re.search(r"[/\\\x00-\x1f]", name) or name in (".", ".."):
            raise SettingsError(
                f"'{name}' cannot be part of a file name", "give it another label: label=path"
            )
        if name in out:
            raise SettingsError(f"two checkpoints are called '{name}'", "label them: label=path")
        out[name] = path
    return out


def _stem(path: Path) -> str:
    """The name of a checkpoint's file without its ending, with the entry that is meant: `A.ema` of `A.pt::ema`."""
    file, entry = file_and_entry(path)
    return file.stem if entry is None else f"{file.stem}.{entry}"


def checkpoint(epoch: int) -> str:
    """`checkpoint-<epoch>.pt`, epoch = number of epochs completed."""
    return f"checkpoint-{epoch}.pt"


TRACKING, RECORDED = "sample_tracking_data_final.csv", "recorded_losses"


def task(number: int) -> str:
    """`task-<number>.pt`: the weights that a task ended with, tasks counted from 0."""
    return f"task-{number}.pt"


def epoch_of(path: Path) -> int | None:
    """The epoch that a checkpoint's file name says, None where it says none."""
    name = file_of(path).name
    found = next((match for pattern in _EPOCHS if (match := pattern.fullmatch(name))), None)
    return int(found[1]) if found else None


def checkpoint_of(path: Path) -> str:
    """What a checkpoint is called: by its file, or its folder too where files of all epochs have one name."""
    alike = path.name in MODEL_FILES or (
        _OF_EPOCH.fullmatch(path.parent.name) and not re.search(r"\d", path.name)
    )
    return f"{path.parent.name}/{path.name}" if alike else path.name


_RUNS = (
    re.compile(r"(?:checkpoint_)?index-(\d+)_epoch-\d+\.pt"),
    re.compile(r".+_idx_(\d+)_epoch_\d+_noise_[\d.]+\.ckpt"),
)
_NOISE = re.compile(r".+_noise_(\d+(?:\.\d+)?)\.ckpt")


def run_of(path: Path) -> int | None:
    """The number of the run that a checkpoint's file name says, None where it says none."""
    name = file_of(path).name
    found = next((match for pattern in _RUNS if (match := pattern.fullmatch(name))), None)
    return int(found[1]) if found else None


def noise_of(path: Path) -> float | None:
    """The noise level that a checkpoint's file name says, None where it says none."""
    found = _NOISE.fullmatch(file_of(path).name)
    return float(found[1]) if found else None


def swap_metadata(output: Path) -> Path:
    """`<stem>_metadata.json` beside a swapped checkpoint."""
    return output.with_name(f"{output.stem}_metadata.json")


def alignment(output: Path) -> Path:
    """`<stem>_alignment.json` beside an aligned checkpoint."""
    return output.with_name(f"{output.stem}_alignment.json")


def alignment_progress(output: Path) -> Path:
    """Beside an aligned checkpoint that is not written yet: how far the matching is."""
    return output.with_name(f"{output.stem}_alignment.partial.json")


def permutation(output: Path) -> Path:
    """`<stem>_permutation.npz` beside an aligned checkpoint."""
    return output.with_name(f"{output.stem}_permutation.npz")


def alignment_beside(permutation: Path) -> Path:
    """`<stem>_alignment.json` beside `<stem>_permutation.npz`."""
    return permutation.with_name(f"{permutation.stem.removesuffix('_permutation')}_alignment.json")


def swap_distances(output: Path) -> Path:
    """`<stem>_layer_distances.json` beside a swapped checkpoint."""
    return output.with_name(f"{output.stem}_layer_distances.json")


def heatmap(output: Path) -> str:
    """`<stem>_heatmap.png` beside an animation."""
    return f"{output.stem}_heatmap.png"
