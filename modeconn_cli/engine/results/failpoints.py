"""Places where a test makes the program fail: `MCX_TESTING=1 MCX_FAILPOINT=files.before_rename:3=kill`.

The place `any` counts every place that is reached, so that a test can fail at each step of a command in its turn. Inert
without MCX_TESTING. Actions: `kill` and the signals `stop`, `usr2`, `int`, `term`; the system's refusals `enospc` and
`eio`; `short`, a write that takes half and then finds no space; `torn`, a write that takes half before the power fails;
`lost`, a rename that is lost with the power because its folder was not on the disk yet.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Literal

# What only the place itself can do.
Done = Literal["short", "torn", "lost", ""]

_SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "usr2": signal.SIGUSR2,
    "int": signal.SIGINT,
    "term": signal.SIGTERM,
}
_REFUSALS = {"enospc": errno.ENOSPC, "eio": errno.EIO}
_counts: dict[str, int] = {}


def failpoint(place: str) -> Done:
    """Fail here where that is asked for; what the place itself has to do, empty elsewhere."""
    if not armed():
        return ""
    wanted, _, action = os.environ.get("MCX_FAILPOINT", "").partition("=")
    name, _, turn = wanted.partition(":")
    if name not in (place, "any"):
        return ""
    _counts[name] = _counts.get(name, 0) + 1
    if _counts[name] != int(turn or 1):
        return ""
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
    elif action in _REFUSALS:
        raise OSError(_REFUSALS[action], os.strerror(_REFUSALS[action]))
    elif action in ("short", "torn", "lost"):
        return action  # type: ignore[return-value] # one of them
    return ""


def armed() -> bool:
    """Whether this is a test that asks for failures."""
    return os.environ.get("MCX_TESTING") == "1" and "MCX_FAILPOINT" in os.environ


def power_fails() -> None:
    """The end of the process, without another word."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> OSError:
    """What the system says where a disk is full."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
