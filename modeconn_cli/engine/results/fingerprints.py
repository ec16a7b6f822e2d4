"""What identifies the content of an input file, of any size."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from modeconn_cli.engine.results import records, shards

LARGE = 1 << 30  # bytes from which on a file's own checksums stand for its bytes


def identify(path: Path) -> dict[str, object]:
    """`size`, `sha256`, and `hashed` where that is not the hash of the file's bytes alone.

    An index of safetensors files is what the files are that it names. Above 1 GB the checksums in a zip archive stand
    for its bytes, and a safetensors header with the file's size and time, as that format has none.
    """
    parts = _parts(path)
    size = sum(part.stat().st_size for part in parts)
    if size < LARGE and len(parts) == 1:
        return {"size": size, "sha256": records.sha256(path)}
    names = {part: _checksums(part) if size >= LARGE else None for part in parts}
    lines = [f"{part.name} {name or records.sha256(part)}" for part, name in names.items()]
    kind = "checksums or header" if any(names.values()) else "files"
    return {"size": size, "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(), "hashed": kind}


def _parts(path: Path) -> list[Path]:
    """The file, and the files that it is an index of."""
    if not shards.is_index(path):
        return [path]
    return [path, *shards.shards(path)]


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
