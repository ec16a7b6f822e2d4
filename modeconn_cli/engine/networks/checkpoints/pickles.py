"""What the pickle inside a checkpoint may name, and what is made of it: tensors and plain values.

Whatever a pickle names is called with arguments that the file chose, so the list is short and every entry on it
harmless for any arguments. It is checked before anything is loaded; torch's own `weights_only` stands behind it.
NumPy's constructors are not on it (`numpy.dtype.__setstate__` believes any flags, `numpy.ndarray` allocates any
size), nor are those of torch that allocate or set attributes: the names of harmless old data lead to stand-ins here.
"""

from __future__ import annotations

import argparse
import pathlib
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,4})")  # and text, as of numpy.str_
MOST = 1_000_000  # values of a checkpoint, 16 numbers in a list counted as one
DEEPEST = 50
REPEATED = 1 << 26  # bytes of a tensor that repeats what the file holds once
NUMBER_TYPES = {int, float, bool}
SHARDED = "torch.distributed."  # names of tensors of which every process holds a share begin so

# Names that torch gives to tensors and their parts, all of them in its own list for `weights_only`.
OF_TORCH = {
    "collections.Counter",
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_sparse_tensor",
    "torch.serialization._get_layout",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    "torch.Size",
    "torch.device",
    "_codecs.encode",
    "builtins.set",
    "builtins.complex",
}
_KINDS = re.compile(r"torch\.(?:[A-Z]\w*Storage|b?float\d+\w*|u?int\d+|bool|complex\d+)")


class DType:
    """Stands for `numpy.dtype` of plain numbers; the byte order comes with the state."""

    def __init__(self, code: str, *_: object) -> None:
        if not NUMBERS.fullmatch(code):
            raise ValueError(f"NumPy data of type '{code}'")
        self.code = code.lstrip("<>|=")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else ""

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=getattr(self, "order", "") + self.code)


class Array:
    """Stands for `numpy.ndarray`; `value` is the array once the state has come."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = dtype.decode(data).reshape(shape, order="F" if fortran else "C")


class Inert(list[Any]):
    """Stands for a value that no weights are made of: a date, a version, a queue.

    It takes whatever a pickle gives it.
    """

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """What it held is left out."""

    __hash__ = object.__hash__  # type: ignore[assignment] # a key, as a date may be
    __eq__ = object.__eq__


# Types of the standard library, of torch and NumPy for which it stands, by module.
_INERT = {
    "torch.torch_version": ("TorchVersion",),
    "types": ("SimpleNamespace",),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "zoneinfo": ("ZoneInfo",),
    "collections": ("deque", "ChainMap", "UserDict", "UserList", "UserString"),
    "UserDict": ("IterableUserDict",),  # as Python 2 named them, and pickles for it do
    "UserList": ("UserList",),
    "UserString": ("UserString",),
    "builtins": ("range", "xrange", "slice"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "uuid": ("UUID", "SafeUUID"),
    "numpy": (
        *(
            "bool",
            "bool_",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
        ),
        *("float32", "float64", "complex64", "complex128", "str_"),
    ),
}


def _array(*_: object) -> Array:
    return Array()


def _scalar(dtype: DType, data: bytes) -> Any:
    return dtype.decode(data)[0].item()


def _dict(*_: object) -> dict[Any, Any]:
    return {}


def _frozenset(*values: Any) -> frozenset[Any]:
    return frozenset(*values)


def _unused(*_: object) -> None:
    """Stands for the type that a defaultdict makes its entries of."""


def _posix_path(*parts: str) -> str:
    return str(pathlib.PurePosixPath(*parts))


def _windows_path(*parts: str) -> str:
    return str(pathlib.PureWindowsPath(*parts))


def _stand_ins() -> Iterator[tuple[str, Callable[..., Any]]]:
    yield "argparse.Namespace", argparse.Namespace
    yield "builtins.frozenset", _frozenset
    for module, inert in _INERT.items():
        for name in inert:
            yield f"{module}.{name}", Inert
    yield "collections.defaultdict", _dict
    for name in ("list", "dict", "int", "float", "str", "tuple"):
        yield f"builtins.{name}", _unused
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath", "Path", "PurePath"):
            yield f"{module}.{name}", _posix_path
        for name in ("WindowsPath", "PureWindowsPath"):
            yield f"{module}.{name}", _windows_path
    yield "numpy.dtype", DType
    yield "numpy.ndarray", Array
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield f"{module}.scalar", _scalar
        yield f"{module}._reconstruct", _array


STAND_INS: dict[str, Callable[..., Any]] = dict(_stand_ins())


def forbidden(stream: IO[bytes]) -> str | None:
    """The first name in a pickle that is on neither list, of those of sharded tensors before others; reads one pickle
    and runs nothing.
    """
    found = None
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            name = str(argument).replace(" ", ".").replace("__builtin__.", "builtins.")
            if not (name in OF_TORCH or name in STAND_INS or _KINDS.fullmatch(name)):
                if not name.startswith("torch."):
                    return found or name
                if name.startswith(SHARDED):
                    return name
                found = found or name
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            return found or f"opcode {opcode.name}"
    return found


def plain(content: Any, size: int) -> Any:
    """Content of a file of `size` bytes as dicts, lists, tuples, tensors and plain values.

    Raises ValueError for what cannot have been saved by accident: tensors that claim more than the file holds,
    and nesting that never ends.
    """
    count = 0
    storages: dict[int, int] = {}

    def visit(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > MOST or depth > DEEPEST:
            raise ValueError("values nested without end")
        if isinstance(value, dict):
            # Not `value.items()`: a pickle can give an OrderedDict attributes of that name.
            return {key: visit(item, depth + 1) for key, item in dict.items(value)}
        if type(value) in (list, tuple):
            if set(map(type, value)) <= NUMBER_TYPES:
                count += len(value) // 16
                return value
            return type(value)(visit(item, depth + 1) for item in value)
        if isinstance(value, Tensor):
            if value.layout == torch.strided and not value.is_meta:
                storage = value.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
                if value.numel() * value.element_size() > max(size, REPEATED):
                    raise ValueError(
                        f"a tensor claims {value.numel():,} elements, the file has {size:,} bytes"
                    )
            return value.detach()
        return value.value if isinstance(value, Array) else value

    out = visit(content, 0)
    claimed = sum(storages.values())
    if claimed > size:  # what the file does not hold would be whatever lies in memory
        raise ValueError(f"tensors claim {claimed:,} bytes, the file has {size:,}")
    return out
