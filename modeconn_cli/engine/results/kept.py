"""The states that a job has written to go on from: one that somebody has exchanged since is not gone on from."""

from __future__ import annotations

import json
from pathlib import Path

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.results.manifest import ANEW

LOG = "kept.jsonl"


class Kept:
    """The content of every state by its place in the job's folder, a line each, in the job's private folder.

    A line is there before its file: a kill may leave a line without a file, but no file of the job without a line.
    """

    def __init__(self, folder: Path, private: Path) -> None:
        self._folder, self._log = folder, private / LOG
        self._known: dict[str, set[str]] | None = None

    def write(self, path: Path, content: dict[str, object]) -> None:
        """Publish a state, `files.write_tensors`."""
        files.write_tensors(path, content, lambda digest: self._add(path, digest))

    def check(self, path: Path) -> None:
        """Raises InputError for a file that is there and that the job did not write so.

        A file of before the job wrote such lines is taken as it is.
        """
        written = self._written().get(self._name(path))
        if written and path.exists() and sha256(path) not in written:
            raise InputError(f"'{path}' is not the file that this job has written", f"put it back, or {ANEW}")

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _add(self, path: Path, digest: str) -> None:
        name = self._name(path)
        self._written().setdefault(name, set()).add(digest)
        files.append_line(self._log, json.dumps({"file": name, "sha256": digest}))

    def _written(self) -> dict[str, set[str]]:
        if self._known is None:
            self._known = {}
            for line in files.read_lines(self._log):
                said = files.parsed(line, self._log, ANEW)
                self._known.setdefault(said["file"], set()).add(said["sha256"])
        return self._known
