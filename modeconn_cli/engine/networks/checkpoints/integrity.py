"""Is a file a whole, undamaged checkpoint, and does it hold data only? Asked before anything is loaded."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import torch

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, must_exist
from modeconn_cli.engine.networks.checkpoints import pickles, safe

# Beginnings of files that are often found in a checkpoint's place.
LOOKALIKES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the file (run: git lfs pull)"),
    (b"\x89PNG", "is a PNG image, not a checkpoint"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"<!DOCTYPE", "is an HTML page, not a checkpoint (a failed download?)"),
    (b"<html", "is an HTML page, not a checkpoint (a failed download?)"),
    (b"\x93NUMPY", "is a NumPy array, not a checkpoint"),
)
RESAVE = "save the tensors alone where the file was made: torch.save(model.state_dict(), 'weights.pt')"
FROM_PICKLE = (
    "if you trust it, in Python: w = pickle.loads(pathlib.Path('{}').read_bytes()); "
    "torch.save({{k: torch.as_tensor(v) for k, v in w.items()}}, 'weights.pt')"
)
FROM_NUMPY = (
    "where they are weights, in Python: w = numpy.load('{}'); "
    "torch.save({{k: torch.as_tensor(v) for k, v in w.items()}}, 'weights.pt')"
)
GATHER = (
    "gather it where it was trained: get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
    "torch.distributed.checkpoint.state_dict, and torch.save what it gives on rank 0"
)
ZIP_BEGIN, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"

MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # with which the old format begins
LEGACY_PICKLES = 5  # magic number, version, machine, content, keys of the storages

# What readers of damaged or made-up files raise.
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
    OSError,
)


def load(path: Path, *, mapped: bool = False) -> Any:
    """The content of a `.pt` or `.safetensors` file, tensors on the CPU. Never runs code from the file.

    With `mapped` the tensors are pages of the file, which come into memory when they are read and leave it when it
    is short; torch's old format without a zip archive cannot be mapped. Raises InputError for every other file.

    The file is opened once: to replace it meanwhile changes nothing. One that is mapped and then written over in its
    own place is another matter: the kernel ends the process where its pages are gone.
    """
    with opened(path) as stream:
        if safe.recognised(stream, path):
            return safe.mapped(_name(stream, path), path) if mapped else safe.load(stream, path)
        mapped = mapped and stream.read(len(ZIP_BEGIN)) == ZIP_BEGIN
        stream.seek(0)
        size, classes = check(stream, path)
        try:
            return pickles.plain(_unpickled(str(_name(stream, path)) if mapped else stream, classes), size)
        except UNREADABLE as error:
            reason = str(error).split("WeightsUnpickler error: ")[-1].strip().split("\n")[0]
            reason = reason.split(" Please use")[0][:200]  # torch's advice is to trust the file
            raise InputError(
                f"'{path}' cannot be read as a checkpoint: {reason or type(error).__name__}", resave(path)
            ) from error


def resave(path: Path, weights: str = "w['state_dict']") -> str:
    """How the tensors alone are saved: where the file was made, or from the file itself, whose content is `w`."""
    return (
        f"{RESAVE}; or, if you trust the file, in Python: w = torch.load('{path}', weights_only=False); "
        f"torch.save({weights}, 'weights.pt')"
    )


def epoch_in(path: Path) -> int | None:
    """The whole number that a file's entry `epoch` holds, without reading its tensors, which may be large and many.

    None where there is none, and of files that are not as torch.save writes them today.
    """
    try:
        with opened(path) as stream, zipfile.ZipFile(stream) as archive:
            member = next(each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            if member.compress_type != zipfile.ZIP_STORED:
                return None
            classes = _check_names(io.BytesIO(archive.read(member)), path)
            content = _unpickled(str(_name(stream, path)), classes)
    except (InputError, StopIteration, *UNREADABLE):
        return None  # whoever reads the file itself says what is wrong with it
    epoch = dict.get(content, "epoch") if isinstance(content, dict) else None
    return epoch if type(epoch) is int and epoch >= 0 else None


def _unpickled(source: str | IO[bytes], classes: Collection[str]) -> Any:
    """What torch reads of a file that has been checked, with stand-ins of the `classes` that it names; tensors are
    pages of one that is given by its name.
    """
    allowed: list[Any] = [(function, name) for name, function in pickles.STAND_INS.items()]
    allowed += [(pickles.stand_in(name), name) for name in classes]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")
        mapped = isinstance(source, str)
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)  # noqa: TID251


def _name(stream: IO[bytes], path: Path) -> Path:
    """A name of the file that is open, also after its path has come to mean another one."""
    name = Path(f"/dev/fd/{stream.fileno()}")
    return name if name.exists() else path


def check_gathered(path: Path) -> None:
    """Raises InputError for a folder of shards, or one of its files, that torch or DeepSpeed puts together itself."""
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".distcp" or (path.is_dir() and (path / ".metadata").is_file()):
        raise InputError(
            f"'{path}' is sharded, by torch.distributed.checkpoint",
            f"gather it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} gathered.pt",
        )
    ours = "zero_pp_rank_" in path.name
    if ours or (
        path.is_dir() and ((path / "zero_to_fp32.py").is_file() or any(path.glob("*zero_pp_rank_*")))
    ):
        raise InputError(
            f"'{path}' is sharded, by DeepSpeed",
            "gather it with the script that DeepSpeed has saved in the folder above its steps: "
            "python zero_to_fp32.py . gathered",
        )


def opened(path: Path) -> IO[bytes]:
    """The file, open for reading. Raises InputError where there is none."""
    with contextlib.suppress(OSError):
        check_gathered(path)
    must_exist(path)
    try:
        return path.open("rb")
    except IsADirectoryError:
        raise InputError(f"'{path}' is a directory, not a checkpoint") from None
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error


def check(stream: IO[bytes], path: Path) -> tuple[int, set[str]]:
    """The size of a file, and the classes that it names (`pickles.named`). Raises InputError for everything that is
    wrong with its bytes.
    """
    classes = set[str]()
    size = os.fstat(stream.fileno()).st_size
    head = stream.read(512)
    if not head:
        raise InputError(f"'{path}' is empty (0 bytes)")
    for begin, message in LOOKALIKES:
        if head.lstrip()[: len(begin)].lower() == begin.lower():
            raise InputError(f"'{path}' {message}")
    stream.seek(0)
    try:
        if head.startswith(ZIP_BEGIN):
            classes = check_zip(stream, path)
        elif head.startswith(b"\x80"):
            if MAGIC not in head[:32]:
                raise InputError(
                    f"'{path}' was written by pickle, not by torch.save", FROM_PICKLE.format(path)
                )
            for _ in range(LEGACY_PICKLES):
                classes |= _check_names(stream, path)
        else:
            what = "is a text file" if _is_text(head) else "is not a file torch.save wrote"
            raise InputError(f"'{path}' {what}, not a checkpoint")
    except (*UNREADABLE, NotImplementedError) as error:
        raise InputError(f"'{path}' is truncated or damaged ({error})") from error
    stream.seek(0)
    return size, classes


def _is_text(head: bytes) -> bool:
    try:
        return head.decode("utf-8").isprintable() or b"\n" in head
    except UnicodeDecodeError:
        return False


def check_zip(stream: IO[bytes], path: Path) -> set[str]:
    """Compare every member of the archive with its checksum: one flipped byte loads silently otherwise.

    Gives the classes that it names.
    """
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.rfind(ZIP_END, max(0, len(content) - (1 << 16) - 22)) < 0:
            raise InputError(f"'{path}' is truncated or damaged (zip directory missing)")
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            inside = [member.filename.partition("/") for member in members]
            within = [name for _, _, name in inside]
            if "constants.pkl" in within:
                raise InputError(
                    f"'{path}' is a TorchScript archive, not a checkpoint", "save model.state_dict() instead"
                )
            if "data.pkl" not in within and any(member.filename.endswith(".npy") for member in members):
                raise InputError(
                    f"'{path}' is a zip archive, but not one torch.save wrote: it holds arrays of NumPy",
                    FROM_NUMPY.format(path),
                )
            if "data.pkl" not in within:
                raise InputError(f"'{path}' is a zip archive, but not one torch.save wrote")
            for member in members:
                _check_member(path, archive, member, content)
            folders, different = {folder for folder, _, _ in inside}, {name.casefold() for name in within}
            if len(folders) > 1 or len(different) < len(within):
                raise InputError(f"'{path}' is damaged or was not written by torch.save: members occur twice")
            if sum(member.file_size for member in members) > len(content):
                raise InputError(f"'{path}' is damaged or was not written by torch.save: members overlap")
            return _check_names(io.BytesIO(archive.read(members[within.index("data.pkl")])), path)


def _check_names(stream: IO[bytes], path: Path) -> set[str]:
    """The classes that one pickle names (`pickles.named`)."""
    begin = stream.tell()
    name, classes = pickles.named(stream)
    if name is not None and name.startswith(pickles.SHARDED):
        raise InputError(f"'{path}' holds one process's share of sharded tensors ('{name}')", GATHER)
    if name is not None:
        raise InputError(
            f"'{path}' refused: contains '{name}' (code)", resave(path, _weights(stream, begin, name))
        )
    return classes


def _weights(stream: IO[bytes], begin: int, name: str) -> str:
    """Python's word for the weights in `w`, the content of a file that is refused for `name`."""
    stream.seek(begin)
    with contextlib.suppress(*UNREADABLE):
        words = {argument for _, argument, _ in pickletools.genops(stream) if isinstance(argument, str)}
        key = next((f"['{key}']" for key in names.STANDARD if key in words), "")
        return f"w{key}.state_dict()" if name.startswith("torch.nn.") else f"w{key}"
    return "w"


def _check_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, content: mmap.mmap) -> None:
    # A member marked as a folder is skipped by torch, which leaves its tensor uninitialised.
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1 or member.external_attr & 0x10:
        raise InputError(f"'{path}' is damaged or was not written by torch.save: '{member.filename}'")
    at = member.header_offset
    with archive.open(member):  # compares the local header with the directory
        begin = at + 30 + sum(int.from_bytes(content[at + k : at + k + 2], "little") for k in (26, 28))
    if begin + member.file_size > len(content) or member.file_size != member.compress_size:
        raise InputError(f"'{path}' is truncated or damaged ('{member.filename}' ends beyond the file)")
    with memoryview(content) as view, view[begin : begin + member.file_size] as data:
        damaged = zlib.crc32(data) != member.CRC
    if damaged:
        raise InputError(f"'{path}' is damaged: CRC mismatch in '{member.filename}'")
