"""The errors a user can cause or meet, each with its exit code. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class McxError(Exception):
    """An error shown as one line, with a hint about what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingsError(McxError):
    """Wrong usage, or settings that contradict each other."""

    exit_code = 2


class InputError(McxError):
    """An input that cannot be used, or data or training that became non-finite."""

    exit_code = 3


class AnswerIsNo(McxError):
    """Everything ran and the answer is no: a swap that is not equivalent, for example."""

    exit_code = 4


class OutputError(McxError):
    """An output that cannot be written, or that exists already."""

    exit_code = 5


class Stopped(McxError):
    """A signal stopped the job after it had saved its state; the same command continues it."""

    exit_code = 75


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The hint that names the closest of `choices`, or a dozen of them where none is close."""
    known = sorted(set(choices))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"choose from: {', '.join(known)}" if known and len(known) <= 12 else ""
