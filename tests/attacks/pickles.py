"""Checkpoints whose pickle does something other than hold tensors."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attacks.archives import zipped

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


def shell(marker: Path) -> Call:
    """Makes a file when it is unpickled carelessly."""
    return Call(os.system, f"touch '{marker}'")


def evaluated(marker: Path) -> Call:
    return Call(eval, f"open({str(marker)!r}, 'w').close()")


def opened(marker: Path) -> Call:
    return Call(open, str(marker), "w")


def saved(path: Path, content: Any, *, legacy: bool) -> None:
    """A file as torch.save writes it, in today's or in the old format."""
    with path.open("wb") as stream:
        torch.save(content, stream, _use_new_zipfile_serialization=not legacy)


# By hand, for what a pickler would not write -------------------------------------------------------------


def named(name: str) -> bytes:
    """The opcode that looks a name up."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def value(plain: Any) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(plain, protocol=2)[2:-1]


def called(name: str, *arguments: bytes) -> bytes:
    """Opcodes that call a name with values that other opcodes push."""
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def state(*opcodes: bytes) -> bytes:
    """Opcodes that set the state of what the first of them makes."""
    return opcodes[0] + b"".join(opcodes[1:]) + b"b"


def entry(opcodes: bytes) -> bytes:
    """A whole pickle: a dict with the entry `x`."""
    return b"\x80\x02}" + value("x") + opcodes + b"s."


def in_zip(path: Path, content: bytes, data: bytes = b"") -> None:
    """A file in today's format with this pickle and at most one storage."""
    members = {"data.pkl": content, "byteorder": b"little", "version": b"3\n", "data/0": data}
    path.write_bytes(zipped({f"archive/{name}": data for name, data in members.items()}))


def in_legacy(path: Path, content: bytes) -> None:
    """A file in the old format with this pickle and no tensors."""
    parts = [pickle.dumps(part, protocol=2) for part in (MAGIC, VERSION, {"little_endian": True})]
    path.write_bytes(b"".join(parts) + content + pickle.dumps([], protocol=2))


def tensor_of(
    elements: int, size: tuple[int, ...], stride: tuple[int, ...], *, legacy: bool = False
) -> bytes:
    """Opcodes of a float tensor over a storage that claims `elements`."""
    storage = b"(" + value("storage") + named("torch.FloatStorage") + value("0") + value("cpu")
    storage += b"\x8a\x08" + struct.pack("<q", elements) + (b"NtQ" if legacy else b"tQ")
    rest = value(0) + value(size) + value(stride) + b"\x89" + called("collections.OrderedDict")
    return named("torch._utils._rebuild_tensor_v2") + b"(" + storage + rest + b"tR"
