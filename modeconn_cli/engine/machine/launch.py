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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from modeconn_cli.engine.errors import McxError, Stopped
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
class Word:
    """What a process leaves in a file when it ends: the launcher forgets codes after a signal, and knows no words."""

    code: int
    message: str = ""
    hint: str = ""


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
            word = Word(end) if isinstance(end, int) else Word(end.exit_code, end.message, end.hint)
            (ends / os.environ["RANK"]).write_text(json.dumps(asdict(word)))
            sys.stdout.flush()
            if word.code:
                os._exit(word.code)

        try:
            elastic_launch(config, child)()
            return Ended(0)
        except ChildFailedError as error:
            exitcode = error.get_first_failure()[1].exitcode
            code = exitcode if exitcode >= 0 else 128 - exitcode
        except SignalException as error:
            code = max((word.code for word in _words(ends)), default=128 + int(error.sigval))
        finally:
            tempfile.tempdir = temporary
        # Ranks that end because another has failed have no words.
        return Ended(code, tuple(_error(word) for word in _words(ends) if word.message))


def _error(word: Word) -> McxError:
    kind = Stopped if word.code == Stopped.exit_code else McxError
    return kind(word.message, word.hint)


def _words(folder: Path) -> list[Word]:
    """What every process has left, in the order of the ranks; nothing of one that was killed while it wrote."""
    words = []
    for rank in sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()):
        with suppress(OSError, ValueError):
            words.append(Word(**json.loads((folder / str(rank)).read_text())))
    return words


def name_of(code: int) -> str:
    """What ended a process, for a message; empty where it ended by itself."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""
