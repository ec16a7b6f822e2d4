"""What each class is flipped to by asymmetric label noise."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from modeconn_cli.engine.errors import SettingsError, must_exist
from modeconn_cli.engine.results.parsing import parsing

NEXT = "next"  # every class to the one after it, the last to the first

# Patrini et al. 2017, arXiv:1609.03683: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog; 2 -> 7,
# 3 -> 8, 5 <-> 6, 7 -> 1. All other data sets: `next`.
DEFAULTS = {"cifar10": "9:1,2:0,4:7,3:5,5:3", "mnist": "2:7,3:8,5:6,6:5,7:1"}

_PAIRS = re.compile(r"\d{1,9}:\d{1,9}(,\d{1,9}:\d{1,9})*", re.ASCII)
HINT = "say it as 9:1,2:0 or `next`, or in a YAML or JSON file of class: class"


def map_text(classes: dict[int, int]) -> str:
    """A map as it is typed, `0:1,1:2`."""
    return ",".join(f"{source}:{target}" for source, target in sorted(classes.items()))


def map_of(words: str | None, dataset: str, num_classes: int) -> dict[int, int]:
    """class -> another class: what `words` say, or the file that they name, else the usual map of the data set.

    Raises SettingsError for what is no map of these classes.
    """
    words = words or DEFAULTS.get(dataset, NEXT)
    if words == NEXT:
        return {number: (number + 1) % num_classes for number in range(num_classes)}
    pairs = _typed(words) if _PAIRS.fullmatch(words) else _in_file(Path(words))
    found: dict[int, int] = {}
    for source, target in pairs:
        if source in found:
            raise SettingsError(f"--noise-map names class {source} twice", HINT)
        if not (0 <= source < num_classes and 0 <= target < num_classes):
            raise SettingsError(
                f"--noise-map says {source}:{target}, and the classes are 0 to {num_classes - 1}", HINT
            )
        if source == target:
            raise SettingsError(f"--noise-map leaves class {source} what it is", HINT)
        found[source] = target
    return found


def _typed(words: str) -> list[tuple[int, int]]:
    cut = (pair.split(":") for pair in words.split(","))
    return [(int(source), int(target)) for source, target in cut]


def _in_file(path: Path) -> list[tuple[int, int]]:
    """The pairs of a YAML or JSON file, a mapping of classes by number."""
    if not path.exists() and path.suffix not in (".yaml", ".yml", ".json"):
        raise SettingsError(f"--noise-map '{path}' is no map of classes, and no file", HINT)
    must_exist(path)
    with parsing(path, "map of classes", HINT):
        found = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)
    if not isinstance(found, dict) or not found:
        raise SettingsError(f"--noise-map '{path}' holds no mapping of classes", HINT)
    words = ",".join(f"{source}:{target}" for source, target in found.items())
    if not _PAIRS.fullmatch(words):
        raise SettingsError(f"--noise-map '{path}' names classes otherwise than by number", HINT)
    return _typed(words)
