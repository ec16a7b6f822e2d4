"""Reading per-sample arrays that someone else may have written."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results.parsing import opened, parsing, reason

MAX_HEADER = 10_000  # bytes; a longer one is no array of ours or of the original scripts
PIECE = 1 << 20  # bytes of an archive's member that are read at a time
# A member that is compressed better than so and larger than that is a bomb: images compress by 3 to 50.
MOST_COMPRESSED, LARGEST_COMPRESSED = 200, 100_000_000
KINDS = "biufcSUMmV"  # of NumPy's types, all but Python objects
DESCRIPTOR = 24  # bytes that may follow a member's own
_BEGINS = b"\x93NUMPY"


@dataclass(frozen=True)
class _Header:
    """What an array says of itself. `length` is that of the header, `size` that of the values, in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, stream: IO[bytes]) -> _Header:
        """The header at the beginning of a stream. Raises ValueError, or whatever NumPy raises, for what is none."""
        version = np.lib.format.read_magic(stream)
        readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        reader = readers.get(version[0])
        if reader is None:
            raise ValueError(f"its version is {version[0]}, expected 1 or 2")
        shape, fortran, dtype = reader(stream, max_header_size=MAX_HEADER)
        if dtype.hasobject:
            raise ValueError("Object arrays")
        if dtype.kind not in KINDS or any(type(axis) is not int or axis < 0 for axis in shape):
            raise ValueError("its header is not that of an array")
        return cls(shape, fortran, dtype, stream.tell())

    def array(self, values: np.ndarray) -> np.ndarray:
        """The array whose bytes are uint8 [size]. Raises ValueError for text that is none."""
        found: np.ndarray = np.empty(self.shape, self.dtype)
        if self.size:
            found = np.ndarray(self.shape, self.dtype, values, order="F" if self.fortran else "C")
        check_text(found)
        return found


def check_text(values: np.ndarray) -> None:
    """Raise ValueError for numbers that are no letters among those of a text: Python cannot show them."""
    if values.dtype.kind == "U" and values.size and values.dtype.itemsize:
        letters = np.ascontiguousarray(values).view(np.dtype("u4").newbyteorder(values.dtype.byteorder))
        if letters.max() > 0x10FFFF:
            raise ValueError("its text holds numbers that are no letters")


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an open .npz file by name, each read, and compared with its checksum, as it is asked for."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        """Raises InputError for what is no archive of whole members."""
        self.path = path
        with parsing(path, ".npz file"):
            begin = stream.read(len(_BEGINS))
            if begin == _BEGINS:
                raise ValueError("it is a single array, a .npy file")
            self._zip = zipfile.ZipFile(stream)
            self._check(stream)
        self._members = {each.filename.removesuffix(".npy"): each for each in self._zip.infolist()}

    def _check(self, stream: IO[bytes]) -> None:
        """Raise ValueError where the directory is not that of all that the file holds.

        An array that it has lost, or calls otherwise, would be one that the file does not have: positions stand for
        ids then, and no permutation for one.
        """
        members = sorted(self._zip.infolist(), key=lambda each: each.header_offset)
        names = [each.filename.removesuffix(".npy") for each in members]
        if len(set(names)) < len(names):
            raise ValueError("it holds two arrays of one name")
        end = 0
        for member in members:
            begin = member.header_offset
            if not 0 <= begin - end <= DESCRIPTOR:
                break
            stream.seek(begin)
            head = stream.read(30)
            name, extra = (int.from_bytes(head[k : k + 2], "little") for k in (26, 28))
            called = stream.read(name).decode("utf-8" if member.flag_bits & 0x800 else "cp437")
            if called != member.orig_filename:
                raise ValueError(f"its array '{called}' is '{member.orig_filename}' in its directory")
            end = begin + 30 + name + extra + member.compress_size
        if not 0 <= self._zip.start_dir - end <= DESCRIPTOR:
            raise ValueError("its directory does not list what it holds")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members  # without reading it

    def __getitem__(self, name: str) -> np.ndarray:
        """The whole array. Raises KeyError for a name that is not there, InputError for an array that is damaged."""
        member = self._members[name]
        with parsing(self.path, ".npz file"), self.member(name) as (header, stream):
            values = np.empty(header.size, np.uint8)
            for begin in range(0, header.size, PIECE):
                piece = stream.read(min(PIECE, header.size - begin))
                values[begin : begin + len(piece)] = np.frombuffer(piece, np.uint8)
            if stream.tell() != member.file_size:
                raise ValueError(f"'{name}' in it ends too early")
            return header.array(values)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """The shape and the type of an array, by its header alone. Raises KeyError and InputError as above."""
        with parsing(self.path, ".npz file"), self.member(name) as (header, _):
            return header.shape, header.dtype

    def checksums(self) -> dict[str, int]:
        """What the directory says of every member's content."""
        return {name: member.CRC for name, member in self._members.items()}

    def rows(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """An array some rows at a time, with the number of the first of them: what came before is not held.

        The last piece comes when all have been compared with their checksum. Raises InputError where they are damaged.
        """
        with contextlib.ExitStack() as stack:
            with parsing(self.path, ".npz file"):
                header, stream = stack.enter_context(self.member(name))
            count, length = header.shape[0], header.size // max(header.shape[0], 1)
            if header.fortran and header.size:  # its rows lie in one another
                yield 0, self[name]
                return
            each = max(1, PIECE // max(length, 1))
            for begin in range(0, count if length else 0, each):
                shape = (min(each, count - begin), *header.shape[1:])
                with parsing(self.path, ".npz file"):
                    piece = np.frombuffer(stream.read(shape[0] * length), header.dtype).reshape(shape)
                yield begin, piece

    @contextlib.contextmanager
    def member(self, name: str) -> Iterator[tuple[_Header, IO[bytes]]]:
        """The header of an array, which fits the length of its values, and the stream that stands before them.

        Who reads them to their end has compared them with their checksum. Raises what NumPy and zipfile raise.
        """
        member = self._members[name]
        if not member.filename.endswith(".npy"):
            raise ValueError(f"'{name}' in it is no array")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"'{name}' in it is compressed otherwise than NumPy does")
        if member.file_size > max(LARGEST_COMPRESSED, MOST_COMPRESSED * member.compress_size):
            raise ValueError(f"'{name}' in it claims {member.file_size:,} bytes of {member.compress_size:,}")
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
            raise ValueError(f"'{name}' in it claims two lengths")
        with self._zip.open(member) as stream:
            try:
                header = _Header.of(stream)
            except ValueError as error:
                raise ValueError(f"'{name}' in it is no array: {reason(error)}") from error
            if header.length + header.size != member.file_size:
                raise ValueError(
                    f"'{name}' in it has {member.file_size - header.length:,} bytes, its header says {header.size:,}"
                )
            yield header, stream


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
    values = mapped(path)
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    if values.ndim != 1 or values.dtype.kind not in kinds:
        raise InputError(
            f"'{path}' holds {values.dtype} {tuple(values.shape)}, expected {'float' if kinds == 'f' else 'int'} [N]"
        )
    if length is not None and len(values) != length:
        raise InputError(f"'{path}' holds {len(values):,} samples, the others {length:,}")
    return values


def mapped(path: Path) -> np.ndarray:
    """An array of any shape, mapped, not loaded. Raises InputError as `read` does."""
    with opened(path) as stream, parsing(path, ".npy array", "save it as float32 [N]"):
        header = _Header.of(stream)
        size = stream.seek(0, 2) - header.length
        if size != header.size:
            raise InputError(
                f"'{path}' has {size:,} bytes of data, its header says {header.size:,}: it is damaged"
            )
        values: np.ndarray = (
            np.memmap(path, dtype=header.dtype, mode="r", offset=header.length, shape=header.shape)
            if size
            else np.empty(header.shape, header.dtype)
        )
        check_text(values)
    return values


@contextlib.contextmanager
def npz(path: Path) -> Iterator[Archive]:
    """An .npz file, whose arrays are read as they are asked for; pickles are never loaded.

    Raises InputError for a file that cannot be opened, as the archive does for an array that is broken.
    """
    with opened(path) as stream:
        yield Archive(stream, path)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file. Raises InputError for one that cannot be read."""
    with npz(path) as archive:
        return dict(archive)


def read_ids(path: Path) -> np.ndarray:
    """Sample ids, int64 [N], by `exact.ids`, of an array of whole numbers or of their spellings."""
    return exact.ids(read(path, kinds="iufUS"), f"'{path}'", spelled=True)
