"""What the held-out images are answered along a path, from the passes of its evaluation.

Each position has a file of its own in the job's private folder, named by t, and its line in the log of positions has
the file's hash: a position whose file is not the one that was written is measured again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import arrays, files
from modeconn_cli.engine.results.fingerprints import sha256

CLASSES, CONFIDENCE, LOGITS = "classes", "confidence", "logits"


def smallest(count: int) -> type[np.unsignedinteger]:
    """The smallest type that holds the numbers of so many classes."""
    return next(kind for kind in (np.uint8, np.uint16, np.uint32) if count - 1 <= np.iinfo(kind).max)


@dataclass(frozen=True)
class Answered:
    """The answers of a network to N images: `classes` unsigned [N], `confidence` float32 [N], the softmax probability
    of the class; `logits` [N, C] where they are kept.
    """

    classes: np.ndarray
    confidence: np.ndarray
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class Keeping:
    """Which answers are kept in `folder`: class and confidence at all positions where `everywhere`, logits at
    `members`.
    """

    folder: Path
    everywhere: bool
    members: frozenset[float] = frozenset()

    def at(self, t: float) -> Answers | None:
        """What takes up the answers at a position; None where none are kept."""
        if not self.everywhere and t not in self.members:
            return None
        return Answers(self._path(t), whole=t in self.members)

    def holds(self, t: float, digest: str) -> bool:
        """Whether what is kept at a position is whole, by the hash in its line of the log."""
        path = self._path(t)
        if self.at(t) is None:
            return True
        return bool(digest) and path.exists() and sha256(path) == digest and self._enough(t)

    def _enough(self, t: float) -> bool:
        return t not in self.members or self.read(t).logits is not None

    def read(self, t: float) -> Answered:
        """What was kept at a position. Raises InputError for a file that is none."""
        path = self._path(t)
        found = arrays.read_npz(path)
        if not {CLASSES, CONFIDENCE} <= found.keys():
            raise InputError(f"'{path}' does not hold the answers at t = {t}", "run the same command again")
        return Answered(found[CLASSES], found[CONFIDENCE], found.get(LOGITS))

    def _path(self, t: float) -> Path:
        return self.folder / f"answers-{t!r}.npz"


class Answers:
    """Takes up the logits of batch after batch at one position."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        self._path, self._whole = path, whole
        self._classes: list[Tensor] = []
        self._confidence: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._count = 1

    def look(self, logits: Tensor) -> None:
        """Take up the logits [B, C] of a batch."""
        top = logits.argmax(1)  # as the evaluation counts
        chosen = logits.double().softmax(1).gather(1, top[:, None])[:, 0]
        self._count = logits.shape[1]
        self._classes.append(top.cpu())
        self._confidence.append(chosen.float().cpu())
        if self._whole:
            exact = logits if logits.dtype == torch.float64 else logits.float()
            self._logits.append(exact.cpu())

    def write(self) -> str:
        """Keep what was taken up; returns the file's hash."""
        found = {
            CLASSES: torch.cat(self._classes).numpy().astype(smallest(self._count)),
            CONFIDENCE: torch.cat(self._confidence).numpy(),
        }
        if self._whole:
            found[LOGITS] = torch.cat(self._logits).numpy()
        content = files.npz_bytes(found)
        files.make_folder(self._path.parent)
        files.atomic_write(self._path, content)
        return hashlib.sha256(content).hexdigest()
