"""Streams that files are written through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import IO, Any

from modeconn_cli.engine.results import failpoints
from modeconn_cli.engine.results.failpoints import failpoint


class Written:
    """A file while it is written: the sha256 of what it was given, and the system's refusal, which torch hides."""

    closed = False  # pyarrow asks

    def __init__(self, stream: IO[bytes], *, hashed: bool) -> None:
        self._stream, self._hash = stream, hashlib.sha256() if hashed else None
        self._begun = False
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            if not self._begun:
                self._begun = True
                self._fail(failpoint("files.write"), data)
            if self._hash is not None:
                self._hash.update(data)
            return self._stream.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def _fail(self, how: str, data: Any) -> None:
        if how:
            self._stream.write(memoryview(data)[: len(data) // 2])
            self._stream.flush()
            if how == "torn":
                failpoints.power_fails()
            raise failpoints.no_space()

    def flush(self) -> None:
        self._stream.flush()

    def sha256(self) -> str:
        return "" if self._hash is None else self._hash.hexdigest()


class _Counted:
    """A stream that keeps nothing of what it is given but the number of bytes."""

    closed = False

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        count = memoryview(data).nbytes
        self.size += count
        return count

    def flush(self) -> None:
        pass


def size_of(write: Callable[[Any], None] | bytes) -> int | None:
    """How many bytes a file has, by writing it again into nothing; None where that fails."""
    if isinstance(write, bytes):
        return len(write)
    counted = _Counted()
    try:
        write(counted)
    except Exception:  # noqa: BLE001 - whatever it is, another error is being told
        return None
    return counted.size
