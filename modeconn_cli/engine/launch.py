"""Starts the processes of one machine by forking this one, which has imported torch already.

torch's elastic launch API watches them, ends all when one fails, and passes signals on.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from modeconn_cli.engine.runtime import STOP_SIGNALS

SAVING = 120  # seconds that processes have for saving after a signal


def count(wanted: str, device: str) -> int:
    """How many processes: a number, or `auto` for one per GPU, else per core."""
    import torch

    if wanted != "auto":
        return int(wanted)
    # Counted without touching CUDA, which must not be initialised before a fork.
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return gpus or len(os.sched_getaffinity(0))


def launch(processes: int, body: Callable[[], int]) -> int:
    """Run `body` in every process; its exit code, or that of the first one that failed.

    A process that a signal killed counts as 128 + its number.
    """
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
        codes = Path(folder)
        temporary, tempfile.tempdir = tempfile.tempdir, folder  # what the launcher leaves goes with it

        def child() -> None:
            code = body()
            (codes / os.environ["RANK"]).write_text(str(code))  # the launcher forgets codes after a signal
            sys.stdout.flush()
            if code:
                os._exit(code)

        try:
            elastic_launch(config, child)()
        except ChildFailedError as error:
            return _code_of(error.get_first_failure()[1].exitcode)
        except SignalException as error:
            ended = [int(path.read_text()) for path in codes.iterdir() if path.name.isdigit()]
            return max(ended, default=_code_of(-int(error.sigval)))
        finally:
            tempfile.tempdir = temporary
    return 0


def _code_of(exitcode: int) -> int:
    return 128 - exitcode if exitcode < 0 else exitcode


def name_of(code: int) -> str:
    """What ended a process, for a message; empty where it ended by itself."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""
