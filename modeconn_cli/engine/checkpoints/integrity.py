"""Is a file a whole, undamaged checkpoint, and does it hold data only? Asked before anything is loaded."""

from __future__ import annotations

import argparse
import collections
import mmap
import pathlib
import pickle
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeconn_cli.engine.errors import InputError

# Beginnings of files that are often found in a checkpoint's place.
LOOKALIKES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the file (run: git lfs pull)"),
    (b"\x89PNG", "is a PNG image, not a checkpoint"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"<!DOCTYPE", "is an HTML page, not a checkpoint (a failed download?)"),
    (b"<!doctype", "is an HTML page, not a checkpoint (a failed download?)"),
    (b"<html", "is an HTML page, not a checkpoint (a failed download?)"),
    (b"\x93NUMPY", "is a NumPy array, not a checkpoint"),
)
ZIP_BEGIN, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"

# The two functions that a pickled NumPy scalar or array names.
_scalar = np.float64(0).__reduce__()[0]
_reconstruct = np.empty(0).__reduce__()[0]

# Data types that old checkpoints carry beside tensors; none of them runs code when it is made.
HARMLESS: list[Any] = [
    argparse.Namespace,
    collections.defaultdict,
    collections.OrderedDict,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
    _scalar,
    _reconstruct,
    # Files of NumPy 1 use the old module's name.
    (_scalar, "numpy.core.multiarray.scalar"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSU"),
    list,
    dict,
    int,
]


def load(path: Path) -> Any:
    """The content of a `.pt` file, tensors on the CPU. Raises InputError; never runs code from the file."""
    check(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            # An environment variable that asks for unsafe loading is overruled, and torch says so.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OSError,
    ) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"'{path}' cannot be read as a checkpoint: {first}") from error


def _refused(path: Path, message: str) -> InputError:
    found = re.search(r"GLOBAL ([\w.]+)", message) or re.search(
        r"[Uu]nsupported (?:global|class|operand)\S* (\S+)", message
    )
    if found is None:
        first = message.split(". ")[-1].splitlines()[0][:200] if message else "unknown"
        return InputError(f"'{path}' is damaged or not a checkpoint: {first}")
    return InputError(
        f"'{path}' refused: contains '{found[1]}' (code)",
        "save the tensors alone where the file was made: torch.save(model.state_dict(), 'weights.pt')",
    )


def check(path: Path) -> None:
    """Raise InputError for everything that is wrong with the bytes of a file."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    if path.is_dir():
        raise InputError(f"'{path}' is a directory, not a checkpoint")
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"'{path}' is empty (0 bytes)")
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error
    for begin, message in LOOKALIKES:
        if head.lstrip().startswith(begin):
            raise InputError(f"'{path}' {message}")
    if head.startswith(ZIP_BEGIN):
        check_zip(path)
    elif not head.startswith(b"\x80"):
        what = "is a text file" if _is_text(head) else "is not a file torch.save wrote"
        raise InputError(f"'{path}' {what}, not a checkpoint")


def _is_text(head: bytes) -> bool:
    try:
        return head.decode("utf-8").isprintable() or b"\n" in head
    except UnicodeDecodeError:
        return False


def check_zip(path: Path) -> None:
    """Compare every member of the archive with its checksum: one flipped byte loads silently otherwise."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.rfind(ZIP_END, max(0, len(content) - (1 << 16) - 22)) < 0:
                raise InputError(f"'{path}' is truncated or damaged (zip directory missing)")
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                for member in members:
                    _check_member(path, archive, member, content)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError, OverflowError) as error:
        raise InputError(f"'{path}' is truncated or damaged ({error})") from error
    names = [member.filename for member in members]
    if any(name.split("/", 1)[-1] == "constants.pkl" for name in names):
        raise InputError(
            f"'{path}' is a TorchScript archive, not a checkpoint", "save model.state_dict() instead"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise InputError(f"'{path}' is a zip archive, but not one torch.save wrote")


def _check_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, content: mmap.mmap) -> None:
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
        raise InputError(f"'{path}' is damaged or was not written by torch.save: '{member.filename}'")
    with archive.open(member):  # compares the local header with the directory
        begin = (
            member.header_offset
            + 30
            + sum(
                int.from_bytes(content[member.header_offset + at : member.header_offset + at + 2], "little")
                for at in (26, 28)
            )
        )
    if begin + member.file_size > len(content) or member.file_size != member.compress_size:
        raise InputError(f"'{path}' is truncated or damaged ('{member.filename}' ends beyond the file)")
    with memoryview(content) as view, view[begin : begin + member.file_size] as data:
        damaged = zlib.crc32(data) != member.CRC
    if damaged:
        raise InputError(f"'{path}' is damaged: CRC mismatch in '{member.filename}'")
