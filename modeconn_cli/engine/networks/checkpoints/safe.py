"""The safetensors format: tensors only, in one file or in shards with an index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import shards


def recognised(stream: IO[bytes], path: Path) -> bool:
    """Whether a file is meant to be one: by its name, or by a header's length before a JSON object."""
    size = os.fstat(stream.fileno()).st_size
    head = stream.read(9)
    stream.seek(0)
    length = int.from_bytes(head[:8], "little")
    return size > 0 and (path.suffix == ".safetensors" or (head[8:] == b"{" and 8 + length <= size))


def has_header(path: Path) -> bool:
    """Whether a file's name says that headers list its tensors: those of the format, and an index of them."""
    return path.name.endswith((".safetensors", ".safetensors.index.json"))


def load(stream: IO[bytes], path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name, as the format keeps no order.

    Raises InputError for what the format's own checks refuse.
    """
    try:
        return dict(sorted(safetensors.torch.load(stream.read()).items()))
    except (SafetensorError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}") from error


def mapped(name: Path, path: Path) -> dict[str, Tensor]:
    """The tensors of the file called `name`, by name, as pages of the file."""
    try:
        with safetensors.safe_open(name, framework="pt") as file:
            return {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}") from error


def contents(path: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and type of every tensor of a file or an index, from the headers alone."""
    out: dict[str, tuple[list[int], str]] = {}
    for part in shards.shards(path) if shards.is_index(path) else [path]:
        try:
            with safetensors.safe_open(part, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    found = file.get_slice(name)
                    out[name] = (list(found.get_shape()), str(found.get_dtype()))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"'{part}' is not a whole safetensors file: {error}") from error
    return out
