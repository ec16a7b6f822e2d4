"""What the pickle inside a checkpoint may name, and what is made of it: tensors and plain values.

Whatever a pickle names is called with arguments that the file chose, so the list is short and every entry on it
harmless for any arguments. It is checked before anything is loaded; torch's own `weights_only` stands behind it.
NumPy's constructors are not on it (`numpy.dtype.__setstate__` believes any flags, `numpy.ndarray` allocates any
size), nor are those of torch that allocate or set attributes: the names of harmless old data lead to stand-ins here.
So do the classes of packages and of people, whatever they are: nothing is imported, and a stand-in holds nothing.
"""

from __future__ import annotations

import argparse
import builtins
import itertools
import pathlib
import pickletools
import re
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

NUMBERS = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,4})")  # and text, as of numpy.str_
MOST = 1_000_000  # values of a checkpoint, 16 numbers in a list counted as one
DEEPEST = 50
LOOKED_AT = 200  # values of an object of an unknown class
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


class _Takes(type):
    """Of stand-ins: torch sets entries of dictionaries alone, which it knows by comparing their types."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


def _has_tensors(given: object) -> bool:
    """Whether tensors are among the first values in it, nearest first."""
    row: list[Any] = [given]
    for each in itertools.islice(row, LOOKED_AT):  # which grows meanwhile
        if isinstance(each, Tensor) or (isinstance(each, Inert) and each.tensors):
            return True
        if isinstance(each, dict):
            row += itertools.islice(dict.values(each), LOOKED_AT)
        elif type(each) in (list, tuple):
            row += each[:LOOKED_AT]
    return False


class Inert(list[Any], metaclass=_Takes):
    """Stands for a value that no weights are made of: a date, a version, an object of a class `of` anyone's.

    It takes whatever a pickle gives it, and holds nothing: `tensors` says whether some of that were tensors. Saved
    again it is an empty dictionary.
    """

    of = "value"
    tensors = False

    def __new__(cls, *given: object) -> Inert:
        made = super().__new__(cls)
        made._left_out(*given)
        return made

    def __init__(self, *_: object) -> None:
        super().__init__()

    def _left_out(self, *given: object) -> None:
        """What it is given is looked at, no further than its first values, and left out."""
        self.tensors = self.tensors or _has_tensors(given)

    __setstate__ = append = extend = __setitem__ = _left_out
    __hash__ = object.__hash__  # type: ignore[assignment] # a key, as a date may be
    __eq__ = object.__eq__

    def __reduce_ex__(self, _: object) -> Any:
        return OrderedDict, ()


# Types of the standard library, of torch and NumPy for which it stands, by module.
_INERT = {
    "torch.torch_version": ("TorchVersion",),
    "torch._C": ("Generator",),
    "types": ("SimpleNamespace",),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "zoneinfo": ("ZoneInfo",),
    "collections": ("deque", "ChainMap", "UserDict", "UserList", "UserString"),
    "UserDict": ("IterableUserDict",),  # as Python 2 named them, and pickles for it do
    "UserList": ("UserList",),
    "UserString": ("UserString",),
    "builtins": (
        "range",
        "xrange",
        "slice",
        *(
            name
            for name, kind in vars(builtins).items()
            if isinstance(kind, type) and issubclass(kind, BaseException)
        ),
    ),
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
    for name in ("list", "dict", "int", "float", "bool", "str", "bytes", "tuple", "object"):
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


# Modules whose names stand on the lists above or nowhere, with those that Python 2 had.
_LISTED = {
    *sys.stdlib_module_names, "torch", "numpy", *(name.split(".")[0] for name in IMPORT_MAPPING),
    *(module.split(".")[0] for module, _ in NAME_MAPPING),
}  # fmt: skip
_CLASS = re.compile(r"_*[A-Z]\w*")
_OF_TRAINING = re.compile(
    r"torch\.(?:optim|amp|cuda\.amp|utils\.data)(?:\.\w+)*\._*[A-Z]\w*"
    r"|numpy\.random\.\w+\.(?:__\w+_ctor|__pyx_unpickle_\w+|[A-Z]\w*)"
)


def _is_class(name: str) -> bool:
    """Whether a name is that of a class that a stand-in may take the place of: of a package or of the user's own, of
    optimizers and data, of generators of random numbers.
    """
    module, _, last = name.rpartition(".")
    if module.split(".")[0] in _LISTED:
        return bool(_OF_TRAINING.fullmatch(name))
    return bool(module and _CLASS.fullmatch(last))


def stand_in(name: str) -> type[Inert]:
    """The class that takes the place of the one of this name."""
    return cast("type[Inert]", _Takes(name.rpartition(".")[2], (Inert,), {"of": name}))


def stands_in(value: Any) -> str | None:
    """The name of the first class whose place a stand-in has taken in a value, however deep in it."""
    if isinstance(value, Inert):
        return value.of
    inside = value.values() if isinstance(value, dict) else value if type(value) in (list, tuple) else ()
    return next((found for each in inside if (found := stands_in(each)) is not None), None)


def named(stream: IO[bytes]) -> tuple[str | None, set[str]]:
    """What one pickle names: the first name that may not be there, of those of sharded tensors before others, and the
    classes that get stand-ins (`stand_in`). Runs nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pickletools has to say of text in damaged files is nobody's
        return _named(stream)


def _named(stream: IO[bytes]) -> tuple[str | None, set[str]]:
    found, classes = None, set[str]()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            name = _todays(str(argument))
            if name in OF_TORCH or name in STAND_INS or _KINDS.fullmatch(name):
                continue
            if _is_class(name):
                classes.add(name)
            elif not name.startswith("torch."):
                return found or name, classes
            elif name.startswith(SHARDED):
                return name, classes
            else:
                found = found or name
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            return found or f"opcode {opcode.name}", classes
    return found, classes


def _todays(argument: str) -> str:
    """The name that an opcode looks up, in Python 3, as torch's reader takes it."""
    module, _, name = argument.partition(" ")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


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
