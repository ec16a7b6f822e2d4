"""Starts the processes of one machine by forking this one, which has imported torch already.

torch's elastic launch API watches them, ends all when one fails, and passes signals on.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import McxError
from modeconn_cli.engine.machine.devices import cores
from modeconn_cli.engine.machine.runtime import STOP_SIGNALS

SAVING = 120  # seconds that processes have for saving after a signal


def count(wanted: str, device: str) -> int:
    """How many processes: a number, or `auto` for one per GPU, else per core."""
    import torch

    if wanted != "auto":
        return int(wanted)
    # Counted without touching CUDA, which must not be initialised before a fork.
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return gpus or cores()


@dataclass(frozen=True)
class Ended:
    """How processes ended: the exit code of the first that failed, 128 + the number of a signal that killed it; and
    the errors that they had to tell, in the order of the ranks.
    """

    code: int
    errors: tuple[McxError, ...] = ()


def launch(processes: int, body: Callable[[], McxError | int]) -> Ended:
    """Run `body` in every process: it returns an exit code, or the error that ended it."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say, the failing process has said
    stopping = ",".join(number.name for number in STOP_SIGNALS)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"mcx{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.05,
        start_method="fork",
        signals_to_handle=stopping,
        shutdown_timeout=SAVING,
    )
    with tempfile.TemporaryDirectory(prefix="mcx-") as folder:
        ends = Path(folder)
        temporary, tempfile.tempdir = tempfile.tempdir, folder  # what the launcher leaves goes with it

        def child() -> None:
            end = body()
            error = end if isinstance(end, McxError) else None
            code = end if isinstance(end, int) else end.exit_code
            said = {} if error is None else {"message": error.message, "hint": error.hint}
            # The launcher forgets codes after a signal, and knows no words.
            (ends / os.environ["RANK"]).write_text(json.dumps({"code": code, **said}))
            sys.stdout.flush()
            if code:
                os._exit(code)

        try:
            elastic_launch(config, child)()
        except ChildFailedError as error:
            return Ended(_code_of(error.get_first_failure()[1].exitcode), _errors(_told(ends)))
        except SignalException as error:
            told = _told(ends)
            return Ended(
                max((int(each.get("code", 0)) for each in told), default=_code_of(-int(error.sigval))),
                _errors(told),
            )
        finally:
            tempfile.tempdir = temporary
    return Ended(0)


def _told(folder: Path) -> list[dict[str, Any]]:
    """What every process has left, in the order of the ranks."""
    paths = sorted(
        (path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
    )
    return [_read(path) for path in paths]


def _read(path: Path) -> dict[str, Any]:
    """What a process has left; nothing of one that was killed while it wrote."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _errors(told: Iterable[dict[str, Any]]) -> tuple[McxError, ...]:
    """The errors with words: other ranks have none to add."""
    return tuple(McxError(each["message"], each.get("hint", "")) for each in told if each.get("message"))


def _code_of(exitcode: int) -> int:
    return 128 - exitcode if exitcode < 0 else exitcode


def name_of(code: int) -> str:
    """What ended a process, for a message; empty where it ended by itself."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""
