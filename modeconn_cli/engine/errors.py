"""The errors a user can cause or meet, each with its exit code. Torch-free."""

from __future__ import annotations

import contextlib
import difflib
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of a message: files name their parts as they like
CLOSE = 0.6  # how alike two words are that one may have been meant for the other


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 4 :]}"


class McxError(Exception):
    """An error shown as one line, with a hint about what to do.

    `result` is a record that is printed all the same: what was measured before the answer turned out to be no.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", result: Any = None) -> None:
        self.message, self.hint = _shortened(message), _shortened(hint)
        super().__init__(self.message)
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


_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
)


@contextlib.contextmanager
def within_memory(batch_size: int | None = None) -> Iterator[None]:
    """Memory that runs out, the device's or the machine's, becomes an InputError that says what takes less of it.

    Torch has a class of its own for a GPU's, and none for the CPU's. What was saved before is there.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = next(iter(str(error).strip().splitlines()), "")
        if not isinstance(error, MemoryError) and not any(each in said for each in _OUT_OF_MEMORY):
            raise
        smaller = f", such as {batch_size // 2}" if batch_size and batch_size > 1 else ""
        raise InputError(
            f"memory has run out: {said or 'the system gives no more'}",
            f"pass a smaller --batch-size{smaller}, or a smaller network; what was finished is kept",
        ) from error


def must_exist(path: Path, hint: str = "", *, folder: bool = False) -> None:
    """Raise InputError where nothing is there, and with `hint` where what is there is no `folder` but has to be.

    So does what is neither a file nor a folder: a pipe would wait for ever, a device never ends. What else may be wrong
    with a file is for its reader to say.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"'{path}' does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:  # of names that no file can have
        raise InputError(f"cannot read '{one_line(str(path))}': {error}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"'{path}' is a pipe, a device or a socket, not a file", "write it to a file first")
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


def in_bytes(count: float) -> str:
    """A number of bytes as people say it: `60 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
