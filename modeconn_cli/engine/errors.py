"""The errors a user can cause or meet, each with its exit code. Torch-free."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CLOSE = 0.6  # how alike two words are that one may have been meant for the other


class McxError(Exception):
    """An error shown as one line, with a hint about what to do.

    `result` is a record that is printed all the same: what was measured before the answer turned out to be no.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", result: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.result = result


class SettingsError(McxError):
    """Wrong usage, or settings that contradict each other."""

    exit_code = 2


class NoDataSet(SettingsError):
    """Neither the settings nor a checkpoint name a data set."""


class InputError(McxError):
    """An input that cannot be used, or data or training that became non-finite."""

    exit_code = 3


class AnswerIsNo(McxError):
    """Everything ran and the answer is no: a swap that is not equivalent, for example."""

    exit_code = 4


class OutputError(McxError):
    """An output that cannot be written, or that exists already."""

    exit_code = 5


CONTINUE = "run the same command to continue"
AGAIN = "run the same command again"  # where nothing may have been saved


class Stopped(McxError):
    """A signal stopped the job after it had saved its state; the same command continues it."""

    exit_code = 75


class Elsewhere(McxError):
    """Another rank of the job has failed, and has said so: this one ends with its exit code and without a word."""

    def __init__(self, exit_code: int, cause: str = "") -> None:
        super().__init__("")
        self.exit_code, self.cause = exit_code, cause


def must_exist(path: Path, hint: str = "", *, folder: bool = False) -> None:
    """Raise InputError where nothing is there, and with `hint` where what is there is no `folder` but has to be.

    What else may be wrong with a file is for its reader to say.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise InputError(f"'{path}' does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error
    if folder and not path.is_dir():
        raise InputError(f"'{path}' is not a folder", hint)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The hint that names the closest of `choices`, or a dozen of them where none is close.

    Initials count as close: `learning_rate` is `lr`; so does a beginning: `exit` is `exit-codes`. Others that have the
    word as a part are named too: of `--seeds` it may be `--seed`, or `--branch-seed` that was meant.
    """
    known = sorted(set(choices))
    bare = {name: name.lstrip("-") for name in known}
    sought = word.lstrip("-")
    initials = "".join(part[:1] for part in re.split("[-_]", sought))
    near = [name for name in known if len(initials) > 1 and bare[name] == initials]
    if not near:
        close = difflib.get_close_matches(sought, bare.values(), n=1, cutoff=CLOSE)
        near = [name for name in known if bare[name] in close][:1]
    near = near or [name for name in known if sought and bare[name].startswith(sought)][:1]
    stem = sought.rstrip("s")
    parts = {name: [part.rstrip("s") for part in re.split("[-_]", bare[name])] for name in known}
    also = [name for name in known if len(stem) > 2 and len(parts[name]) > 1 and stem in parts[name]]
    also = [name for name in also if name not in near][:3]
    if near or also:
        said = " or ".join(f"'{name}'" for name in (near or also[:1]))
        others = also if near else also[1:]
        return f"did you mean {said}?" + (f" There is also {', '.join(others)}" if others else "")
    return f"choose from: {', '.join(known)}" if known and len(known) <= 12 else ""


def one_line(text: str) -> str:
    """The text with everything that does not print spelled out, as names of files and layers may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
