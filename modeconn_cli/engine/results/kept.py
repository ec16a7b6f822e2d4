"""The states that a job has written to go on from: one that somebody has exchanged since is not gone on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files, logs
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.results.manifest import ANEW

LOG = "kept.jsonl"


@dataclass(frozen=True)
class State:
    """A state that was written: `file` is its place in the job's folder."""

    file: str
    sha256: str


class Kept:
    """The content of every state by its place in the job's folder, a line each, in the job's private folder.

    A line is there before its file: a kill may leave a line without a file, but no file of the job without a line.
    """

    def __init__(self, folder: Path, private: Path) -> None:
        self._folder, self._log = folder, private / LOG

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Publish a state, `files.write_tensors`."""
        files.write_tensors(path, content, lambda digest: self._add(path, digest))

    def check(self, path: Path) -> None:
        """Raises InputError for a file that is there and that the job did not write so.

        Where the job has written no line of it, or lines are damaged, nobody can tell: it is taken as it is.
        """
        known = self._written.get(self._name(path))
        if known and path.exists() and sha256(path) not in known:
            raise InputError(f"'{path}' is not the file that this job has written", f"put it back, or {ANEW}")

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _add(self, path: Path, digest: str) -> None:
        state = State(self._name(path), digest)
        self._written.setdefault(state.file, set()).add(state.sha256)
        logs.append_line(self._log, json.dumps(asdict(state)))

    @cached_property
    def _written(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in logs.read(self._log, State):
            if line.record is None:
                return {}
            found.setdefault(line.record.file, set()).add(line.record.sha256)
        return found
