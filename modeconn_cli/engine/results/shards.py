"""Which files an index names, of safetensors files or of torch's own."""

from __future__ import annotations

from pathlib import Path

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files

LARGEST_INDEX = 100_000_000  # bytes


def is_index(path: Path) -> bool:
    return path.name.endswith((".safetensors.index.json", ".bin.index.json"))


def tensors(path: Path) -> dict[str, str]:
    """The tensors that an index names -> the file of each."""
    try:
        with path.open("rb") as stream:
            found = dict(files.parsed(stream.read(LARGEST_INDEX), path)["weight_map"].items())
        if not all(isinstance(name, str) for name in found.values()):
            raise ValueError("the name of a file is not text")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is not an index of files with weights ({error})") from error


def shards(path: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    found = set(tensors(path).values())
    for name in found:
        if Path(name).name != name:
            raise InputError(f"'{path}' names '{name}', which is no file beside it")
    return [path.with_name(name) for name in sorted(found)]
