"""Reading per-sample arrays that someone else may have written."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files

# What NumPy and zipfile say -> what is wrong with the file. Their own words advise to trust it, which is never done.
REASONS = {
    "max_header_size": "its header is too long for an array",
    "allow_pickle": "it holds Python objects, which are never loaded",
    "Object arrays": "it holds Python objects, which are never loaded",
    "magic string is not correct": "it does not begin as one",
    "EOF": "it ends too early",
    "No data left": "it ends too early",
    "not a zip file": "it is no zip archive, or ends too early",
    "Header does not contain the correct keys": "its header is not that of an array",
    "Cannot parse header": "its header is not that of an array",
}
MAX_HEADER = 10_000  # bytes; a longer one is no array of ours or of the original scripts


class _Arrays(NpzFile):
    """An archive whose members are arrays: NumPy gives the bytes of any other."""

    def __getitem__(self, key: str) -> np.ndarray:
        value = super().__getitem__(key)
        if not isinstance(value, np.ndarray):
            raise ValueError(f"'{key}' in it is no array")
        return value


def reason(error: Exception) -> str:
    """What is wrong with a file that NumPy refuses, on one line."""
    text = " ".join(str(error).split())
    return next((ours for said, ours in REASONS.items() if said in text), text)


def stream(paths: Iterable[Path], length: int) -> Iterator[np.ndarray]:
    """The vectors [N] of files one after the other, in one buffer: each is gone when the next one comes.

    Reading into the same memory is 2.5 times as fast as mapping each file anew.
    """
    buffer = np.empty(length, dtype=np.float32)
    for path in paths:
        mapped = read(path, length)
        if isinstance(mapped, np.memmap) and mapped.dtype == buffer.dtype:
            with path.open("rb") as file:
                file.seek(mapped.offset)
                file.readinto(buffer.data.cast("B"))
            yield buffer
        else:
            yield np.asarray(mapped)


def read(path: Path, length: int | None = None, kinds: str = "f") -> np.ndarray:
    """A vector [N], mapped, not loaded; a trailing axis of 1 is dropped.

    `kinds` are the accepted NumPy kinds. Raises InputError for anything else: pickles, matrices, truncated files,
    trailing bytes, other lengths.
    """
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            reader = readers.get(version[0])
            if reader is None:
                raise ValueError(f"its version is {version[0]}, expected 1 or 2")
            shape, _, dtype = reader(stream, max_header_size=MAX_HEADER)
            begin = stream.tell()
        if dtype.hasobject:
            raise InputError(
                f"'{path}' holds Python objects, which are never loaded", "save it as float32 [N]"
            )
        size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        if path.stat().st_size != begin + size:
            raise InputError(
                f"'{path}' has {path.stat().st_size - begin:,} bytes of data, its header says {size:,}: it is damaged"
            )
        values: np.ndarray = (
            np.memmap(path, dtype=dtype, mode="r", offset=begin, shape=shape)
            if size
            else np.empty(shape, dtype)
        )
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"'{path}' does not exist") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"'{path}' is not a readable .npy array: {reason(error)}") from error
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    if values.ndim != 1 or values.dtype.kind not in kinds:
        raise InputError(
            f"'{path}' holds {values.dtype} {tuple(values.shape)}, expected {'float' if kinds == 'f' else 'int'} [N]"
        )
    if length is not None and len(values) != length:
        raise InputError(f"'{path}' holds {len(values):,} samples, the others {length:,}")
    return values


@contextlib.contextmanager
def npz(path: Path) -> Iterator[NpzFile]:
    """An .npz file, whose arrays are read as they are asked for; pickles are never loaded.

    Raises InputError for a file that cannot be opened, and for what turns out to be broken while it is open.
    """
    with files.reading(path), path.open("rb") as stream:  # as np.load leaves a broken file open
        try:
            with _Arrays(stream, allow_pickle=False) as archive:
                yield archive
        # What zipfile, zlib and numpy raise on cut, altered, encrypted or oversized members and on pickles.
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
            raise InputError(f"'{path}' is not a readable .npz file: {reason(error)}") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file. Raises InputError for one that cannot be read."""
    with npz(path) as archive:
        return {name: archive[name] for name in archive.files}


def read_ids(path: Path) -> np.ndarray:
    """Sample ids, int64 [N], by `exact.ids`, of an array of whole numbers or of their spellings."""
    return exact.ids(read(path, kinds="iufUS"), f"'{path}'", spelled=True)
