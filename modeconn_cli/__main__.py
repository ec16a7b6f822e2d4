"""`mcx` and `python -m modeconn_cli`, hence `torchrun -m modeconn_cli`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def entry() -> None:
    """The executable: answer the TAB key, or run a command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` and background jobs ignore Ctrl-C
            signal.signal(number, _end)
    try:
        code = _run()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    # What comes now is Python's own end, which one more signal may cut short.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(code)


def _run() -> int:
    _open_streams()
    if "_MCX_COMPLETE" in os.environ:
        from modeconn_cli.cli.complete import answer

        text = answer(os.environ)
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a shell that has gone needs no answer
        return 0
    from modeconn_cli.cli.app import main

    return main()


def _open_streams() -> None:
    """Closed standard streams become the null device, else the next file that is opened takes their place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - open as long as the program
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold what the terminal's encoding does not.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _end(number: int, frame: FrameType | None) -> None:
    """A signal while there is nothing to save. A job that can save replaces this handler."""
    signal.signal(number, signal.SIG_DFL)  # a second one ends at once
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            # C extensions swallow an exception in the middle of their imports and run on, half imported; Python itself
            # does where an object is given up, as loaders of images are.
            os._exit(128 + number)
        frame = frame.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


if __name__ == "__main__":
    entry()
