"""`mcx` and `python -m modeconn_cli`, hence `torchrun -m modeconn_cli`."""

from __future__ import annotations

import os
import signal
import sys


def entry() -> None:
    """The executable: answer the TAB key, or run a command."""
    if "_MCX_COMPLETE" in os.environ:
        from modeconn_cli.cli.complete import answer

        sys.stdout.write(answer(os.environ))
        return
    signal.signal(signal.SIGTERM, _terminated)
    from modeconn_cli.cli.app import main

    sys.exit(main())


def _terminated(number: int, _frame: object) -> None:
    """SIGTERM with nothing to save. A job that can save replaces this handler."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    entry()
