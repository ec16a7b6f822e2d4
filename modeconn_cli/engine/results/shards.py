"""Which files an index names, of safetensors files or of torch's own."""

from __future__ import annotations

from pathlib import Path

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import strict_json
from modeconn_cli.engine.results.parsing import opened

LARGEST_INDEX = 100_000_000  # bytes


def is_index(path: Path) -> bool:
    return path.name.endswith((".safetensors.index.json", ".bin.index.json"))


def tensors(path: Path) -> dict[str, str]:
    """The tensors that an index names -> the file of each."""
    with opened(path) as stream:
        found = strict_json.parsed(stream.read(LARGEST_INDEX), path)
    tensors = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(tensors, dict) or not all(map(_is_name, tensors.values())):
        raise InputError(
            f"'{path}' is not an index of files with weights", 'expected {"weight_map": {tensor: file}}'
        )
    return tensors


def _is_name(name: object) -> bool:
    """Whether it is text that a file may be called."""
    return isinstance(name, str) and name.isprintable() and name not in ("", ".", "..")


def shards(path: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    found = set(tensors(path).values())
    for name in found:
        if Path(name).name != name:
            raise InputError(f"'{path}' names '{name}', which is no file beside it")
    return [path.with_name(name) for name in sorted(found)]
