"""The only writer: every file appears whole or not at all.

A file is written to a temporary name in its own folder, flushed to the disk and renamed. A kill at any moment
leaves the old file or none.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import os
import re
import secrets
import socket
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError, OutputError, in_bytes
from modeconn_cli.engine.results import failpoints, hashes, strict_json
from modeconn_cli.engine.results.failpoints import failpoint
from modeconn_cli.engine.results.streams import Written, size_of

ROWS = 4096  # of a table that are written at a time
MANY, AT_ONCE = 256, 16  # files that are published together, and how many of them at a time
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # what a disk says that has no such thing
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"  # whose process numbers a name speaks of
_TEMPORARY = re.compile(rf"^\.mcx-(\d+)-{_HOST}[0-9a-f]+\.tmp$")


def atomic_write(
    path: Path,
    write: Callable[[Any], None] | bytes,
    hashed: Callable[[str], None] | None = None,
    *,
    remember: bool = False,
    among_others: bool = False,
) -> None:
    """Publish a file. Raises OutputError where the disk refuses; the file that was there stays.

    `among_others`: whoever publishes several in one folder syncs the folder after the last, and says so then.

    `hashed` is told the sha256 of what `write` gives, one byte after the other, before the file has its name. It is
    also kept for whoever asks for it later in this process, and so it is where it is to be `remember`ed alone.
    """
    temporary = _temporary(path.parent)
    check_guarded(path)
    into = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        raise refused(path, error, write) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            failpoint("files.before_write")
            into = Written(stream, hashed=remember or hashed is not None)
            if isinstance(write, bytes):
                into.write(write)
            else:
                write(into)
            into.flush()
            failpoint("files.before_sync")
            os.fsync(stream.fileno())
            status = os.fstat(stream.fileno())
        if into.sha256():
            hashes.remember(path, status, into.sha256())
        if hashed is not None:
            hashed(into.sha256())
        failpoint("files.before_rename")
        before = path.read_bytes() if failpoints.armed() and path.exists() else None
        os.replace(temporary, path)
    except OSError as error:
        raise refused(path, error, write) from error
    except Exception as error:
        if into is None or into.refusal is None:
            raise
        # Torch's writer says something else of it.
        raise refused(path, into.refusal, write) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    try:
        if failpoint("files.before_folder_sync") == "lost":
            path.unlink() if before is None else path.write_bytes(before)
            failpoints.power_fails()
        if not among_others:
            _sync_folder(path.parent)
        failpoint("files.after_rename")
    except OSError as error:  # the file is there, and nobody knows for how long
        raise refused(path, error, write) from error
    if not among_others:
        published(path)


_guarded: list[Path] = []


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """While a job works in a folder it has to be there: who removes it ends the job, which would leave holes."""
    _guarded.append(folder)
    try:
        yield
    finally:
        _guarded.remove(folder)


def check_guarded(path: Path) -> None:
    """Raises OutputError where the folder of a job that works there, `path` is inside, has been removed."""
    gone = next((each for each in _guarded if each in path.parents and not each.exists()), None)
    if gone is not None:
        raise OutputError(f"'{gone}' was removed while the job was running", "run the same command again")


_watching: list[dict[Path, None]] = []


@contextlib.contextmanager
def watched() -> Iterator[Collection[Path]]:
    """Collect the files that are published meanwhile, in the order in which each was first."""
    found: dict[Path, None] = {}
    _watching.append(found)
    try:
        yield found.keys()
    finally:
        _watching.remove(found)


def published(path: Path) -> None:
    """Tell whoever watches that a file has been written, or written on."""
    for found in _watching:
        found[path] = None


def _temporary(folder: Path) -> Path:
    return folder / f".mcx-{os.getpid()}-{_HOST}{secrets.token_hex(4)}.tmp"


def refused(path: Path, error: OSError, write: Callable[[Any], None] | bytes = b"") -> OutputError:
    """The operating system's refusal to write, in our words, and how much it was; `write` as in `atomic_write`."""
    if error.errno in _FULL:
        size = size_of(write)
        needed = f" (needs {in_bytes(size)})" if size else ""
        return OutputError(
            f"no space left writing '{path}'{needed}", "free some space and run the same command again"
        )
    return OutputError(f"cannot write '{path}': {error.strerror}")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; folders that cannot be opened or synced (some network disks) are left alone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, among_others: bool = False) -> None:
    """UTF-8; the bytes of a file name that are none are spelled out, in JSON's own way."""
    atomic_write(path, text.encode("utf-8", "backslashreplace"), among_others=among_others)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV, with the same line ends everywhere; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def write_rows(
    path: Path, header: Sequence[str], formats: Sequence[str], count: int, rows: Callable[[slice], np.ndarray]
) -> None:
    """A table as CSV, from `rows` [n, columns] of objects, some thousands at a time; NaN is an empty cell."""
    begins = range(0, count, ROWS)
    write_pieces(path, header, formats, lambda: (rows(slice(k, min(k + ROWS, count))) for k in begins))


def write_pieces(
    path: Path, header: Sequence[str], formats: Sequence[str], pieces: Callable[[], Iterable[np.ndarray]]
) -> None:
    """A table as CSV, from pieces [n, columns] of objects, one after the other; NaN is an empty cell.

    One format for thousands of rows takes a quarter of the time of pandas' `to_csv`, which makes a string of each
    number and knows one format for all columns.
    """
    line = ",".join(formats) + "\n"

    def write(stream: Any) -> None:
        stream.write(csv_text(header, []).encode())
        for cells in pieces():
            text = (line * len(cells)) % tuple(cells.ravel())
            stream.write(text.replace(",nan", ",").encode())

    atomic_write(path, write)


def write_jsons(documents: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
    """Many documents, each at its path: a disk that waits for one file takes a dozen others meanwhile."""
    left = iter(documents)
    with ThreadPoolExecutor(1 if failpoints.armed() else AT_ONCE) as threads:
        while some := list(itertools.islice(left, MANY)):
            if len(some) == 1:  # one file gains nothing, and a signal reaches the main thread alone
                write_json(*some[0])
                continue
            list(threads.map(lambda each: write_json(*each, among_others=True), some))
            for folder in dict.fromkeys(path.parent for path, _ in some):
                try:
                    _sync_folder(folder)
                except OSError as error:
                    raise refused(folder, error) from error
            for path, _ in some:  # in their order, and when they are there for good
                published(path)


def write_json(path: Path, document: Mapping[str, Any], *, among_others: bool = False) -> None:
    """Strict JSON, indented; `document` must hold no NaN and no infinity. `among_others` as in `atomic_write`."""
    write_text(path, strict_json.text(document), among_others=among_others)


def write_tensors(
    path: Path, content: Mapping[str, Any], hashed: Callable[[str], None] | None = None
) -> None:
    """A `.pt` file of tensors and plain values, loadable with `weights_only=True`.

    Tensors are copied to the CPU and cut loose from larger storages: a view writes its own bytes only. `hashed` as in
    `atomic_write`.
    """
    import torch  # two seconds, which commands that only draw or count do not spend

    portable = _portable(content)
    atomic_write(path, lambda stream: torch.save(portable, stream), hashed)  # noqa: TID251


def tensor_bytes(content: Mapping[str, Any]) -> bytes:
    """What `write_tensors` writes; the same bytes for the same content."""
    import torch

    buffer = io.BytesIO()
    torch.save(_portable(content), buffer)  # noqa: TID251
    return buffer.getvalue()


def _portable(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return (
            tensor
            if whole and tensor.is_contiguous()
            else tensor.clone(memory_format=torch.contiguous_format)
        )
    if isinstance(value, str):
        # pickle writes a string once and refers to it afterwards: equal strings must be one object, or a run that
        # was continued would write other bytes.
        return sys.intern(value)
    if isinstance(value, Mapping):
        return {
            sys.intern(key) if isinstance(key, str) else key: _portable(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def write_arrays(path: Path, arrays: Mapping[str, Any], *, remember: bool = False) -> None:
    """An uncompressed `.npz` without pickles; `remember` as in `atomic_write`."""
    atomic_write(path, npz_bytes(arrays), remember=remember)


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    """What `write_arrays` writes; the same bytes for the same arrays."""
    plain = {name: np.asarray(value) for name, value in arrays.items()}
    for name, array in plain.items():
        if array.dtype == object:
            raise TypeError(f"array '{name}' would need a pickle")
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **plain)  # noqa: TID251
    return buffer.getvalue()


def write_array(path: Path, array: Any) -> None:
    """A `.npy` file without pickles."""
    plain = np.ascontiguousarray(array)
    if plain.dtype == object:
        raise TypeError(f"'{path.name}' would need a pickle")
    atomic_write(
        path, lambda stream: np.lib.format.write_array(stream, plain, allow_pickle=False), remember=True
    )


def occupied(path: Path) -> bool:
    """Whether something has that name already. Raises OutputError for a name that cannot be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused(path, error) from error
    return True


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """No command replaces what it reads, by whatever name: the same path, a symbolic or a hard link."""
    for path, source in itertools.product(outputs, map(names.file_of, inputs)):
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise OutputError(f"'{path}' is the input itself", "choose another --output")


def make_folder(folder: Path) -> None:
    """A folder with all above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error


def check_writable(folder: Path) -> None:
    """Find out before the work starts whether files can be written, be it in a folder still to be made.

    What a killed process has left there is removed.
    """
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    probe = _temporary(nearest)
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        probe.unlink()
    except OSError as error:
        raise refused(folder, error) from error
    remove_leftovers(nearest)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes of this host that no longer live."""
    for path in folder.glob(".mcx-*.tmp"):
        found = _TEMPORARY.match(path.name)
        if found and not alive(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def alive(pid: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to read into an InputError with the path."""

    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"'{path}' does not exist") from error
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error
