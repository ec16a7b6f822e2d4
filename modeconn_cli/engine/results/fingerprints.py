"""What identifies the content of a file, of any size."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine import names
from modeconn_cli.engine.results import hashes, shards

LARGE = 1 << 30  # bytes from which on a file's own checksums stand for its bytes


@dataclass(frozen=True)
class Fingerprint:
    """`size` in bytes; `hashed` says of what `sha256` is, where that is not the file's bytes alone."""

    size: int
    sha256: str
    hashed: str | None = None


def identify(path: Path) -> Fingerprint:
    """The content of a file.

    Of an entry of a file (`A.pt::ema`) it is the file's with the entry's name: two of them are two inputs.

    An index of safetensors files is what the files are that it names. Above 1 GB the checksums in a zip archive stand
    for its bytes, and a safetensors header with the file's size and time, as that format has none.
    """
    path, entry = names.file_and_entry(path)
    found = _identify(path)
    if entry is None:
        return found
    told = f"{found.hashed or 'file'} and '{entry}'"
    return Fingerprint(found.size, _with_entry(found.sha256, entry), told)


def _with_entry(digest: str, entry: str) -> str:
    return hashlib.sha256(f"{digest} {entry}".encode()).hexdigest()


def _identify(path: Path) -> Fingerprint:
    parts = [path, *shards.shards(path)] if shards.is_index(path) else [path]
    size = sum(part.stat().st_size for part in parts)
    if size < LARGE and len(parts) == 1:
        return Fingerprint(size, sha256(path))
    told = {part: _checksums(part) if size >= LARGE else None for part in parts}
    lines = [f"{part.name} {checksums or sha256(part)}" for part, checksums in told.items()]
    kind = "checksums or header" if any(told.values()) else "files"
    return Fingerprint(size, hashlib.sha256("\n".join(lines).encode()).hexdigest(), kind)


def _checksums(path: Path) -> str | None:
    """What the file says of its own content; None for one that says nothing."""
    if path.suffix == ".safetensors":
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, LARGE))
            status = os.fstat(stream.fileno())
        told = header + f"{status.st_size} {status.st_mtime_ns}".encode()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            told = "\n".join(f"{m.filename} {m.CRC} {m.file_size}" for m in archive.infolist()).encode()
    else:
        return None
    return hashlib.sha256(told).hexdigest()


def sha256(path: Path) -> str:
    """Hash of a file's bytes, with an entry as in `identify`; a file that did not change since is not read again."""
    path, entry = names.file_and_entry(path)
    digest = hashes.known(path, path.stat()) or read_hash(path)
    return digest if entry is None else _with_entry(digest, entry)


def read_hash(path: Path) -> str:
    """The hash of a file's bytes, all of which are read."""
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    hashes.remember(path, status, digest)
    return digest
