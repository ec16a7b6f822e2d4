"""Starts the processes of one machine by forking this one, which has imported torch already.

A rank never waits for its launcher, and ends when that is gone: the system kills it then, or it looks by itself where
the system does not. The launcher holds the store of the ranks, passes signals on, and ends all when one has failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

from modeconn_cli.engine.errors import CONTINUE, McxError, Stopped
from modeconn_cli.engine.machine.devices import cores
from modeconn_cli.engine.machine.runtime import STOP_SIGNALS

# Seconds that ranks have for saving and ending after a signal, or after another has failed. A unit of work that is cut
# off is lost either way, and a file that is being written stays as it was.
ENDING = 7.0
LOOK = 0.05  # seconds between two looks at the ranks
ORPHANED = 1.0  # seconds between two looks for the launcher, where the system says nothing of its end
PIPE, WORDS = (
    65_536,
    2_500,
)  # bytes that a pipe takes at once; letters of a message, each of twelve bytes at most
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


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
    """What a process leaves when it ends: an exit status has no words."""

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
    from torch import distributed

    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "localhost", 0, is_master=True, timeout=timedelta(minutes=1), wait_for_workers=False
    )
    common = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": f"mcx{os.getpid()}",
    }
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # what is waiting there would be written by every process
    ranks: list[_Rank] = []
    with _collected_signals() as (asked, before):
        try:
            for number in map(str, range(processes)):
                ranks.append(_start({**common, "RANK": number, "LOCAL_RANK": number}, body, before))
            return _watch(ranks, asked)
        finally:
            for rank in ranks:
                rank.kill()
                os.close(rank.words)


@dataclass
class _Rank:
    """A process that was started; its words come through a pipe, of which `words` is our end.

    `code` is its exit status once it has ended, negative for a signal; `given_up`: it was killed for taking too long.
    """

    pid: int
    words: int
    code: int | None = None
    given_up: bool = False

    def look(self) -> bool:
        """Whether it has ended since the last look."""
        if self.code is not None:
            return False
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def send(self, number: int) -> None:
        if self.code is None:  # not waited for yet, so the number is its own still
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.code is None:
            self.given_up = True
            self.send(signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def word(self) -> Word:
        """What it has left, else what its exit status says."""
        os.set_blocking(self.words, False)  # what the rank has started may live and hold the other end
        with suppress(BlockingIOError, ValueError):  # nothing
            return Word(**json.loads(os.read(self.words, PIPE)))
        if self.given_up:
            return Word(Stopped.exit_code, "stopped", CONTINUE)
        assert self.code is not None
        return Word(self.code if self.code >= 0 else 128 - self.code)


def _start(
    environment: dict[str, str], body: Callable[[], McxError | int], before: dict[signal.Signals, object]
) -> _Rank:
    """Fork a rank; `before` are the handlers of signals that it begins with."""
    (words, own), launcher = os.pipe(), os.getpid()
    # A signal that comes now waits until the rank has handlers of its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        pid = os.fork()
        if pid:
            os.close(own)
            return _Rank(pid, words)
        code = 1
        try:
            _end_with(launcher)
            _let_children_end()
            for number, handler in before.items():
                signal.signal(number, handler)  # type: ignore[arg-type] # what signal.signal has returned
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the terminal answers one process
            os.environ.update(environment)
            word = _word_of(body)
            os.write(own, json.dumps(asdict(word)).encode())
            code = word.code
        finally:
            os._exit(code)  # Python's own end would wait for threads, and for what the launcher has opened
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _word_of(body: Callable[[], McxError | int]) -> Word:
    """Run `body`, and say how it ended."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        end = body()
    except KeyboardInterrupt:
        end = 128 + signal.SIGINT
    except SystemExit as error:  # of a signal while there was nothing to save
        end = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a bug, which Python would show as well
        traceback.print_exc()
        end = 1
    if isinstance(end, int):
        return Word(end)
    return Word(end.exit_code, end.message[:WORDS], end.hint[:WORDS])


def _end_with(launcher: int) -> None:
    """Let this process be killed as soon as its launcher has gone, in whatever it is doing then."""
    if not _killed_by_the_system():
        threading.Thread(target=_look_for, args=(launcher,), daemon=True).start()
    if os.getppid() != launcher:  # gone before the system was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _let_children_end() -> None:
    """Let what this process forks, such as loaders of images, end with it, and not when it next looks around."""
    parent = [0]

    def before() -> None:
        parent[0] = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: _end_with(parent[0]))


def _killed_by_the_system() -> bool:
    """Ask Linux to kill this process when the one that has started it ends; False for other systems."""
    if not sys.platform.startswith("linux"):
        return False
    kill = ctypes.c_ulong(signal.SIGKILL)
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, kill) == 0)
    except (OSError, AttributeError):  # a C library without it
        return False


def _look_for(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(ORPHANED)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _collected_signals() -> Iterator[tuple[list[int], dict[signal.Signals, object]]]:
    """The numbers of the signals that come meanwhile; and the handlers that were there before and will be after."""
    asked: list[int] = []
    before: dict[signal.Signals, object] = {
        number: signal.signal(number, lambda number, _: asked.append(number)) for number in STOP_SIGNALS
    }
    try:
        yield asked, before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal.signal has returned


def _watch(ranks: list[_Rank], asked: list[int]) -> Ended:
    """Wait for all ranks, and pass on the signals that are `asked`. After one, or a failure, the ranks end in time."""
    failed, passed_on, end = None, 0, float("inf")
    while any(rank.code is None for rank in ranks):
        for rank in [each for each in ranks if each.look() and each.code]:
            if failed is None and not passed_on:
                failed = rank
                _send(ranks, signal.SIGTERM)
                end = time.monotonic() + ENDING
        while passed_on < len(asked):
            _send(ranks, asked[passed_on])
            passed_on += 1
            end = min(end, time.monotonic() + ENDING)
        if time.monotonic() > end:
            for rank in ranks:
                rank.kill()
        time.sleep(LOOK)
    words = [rank.word() for rank in ranks]
    if failed is not None and not passed_on:
        code = failed.word().code
    elif words[0].code == 0:
        return Ended(0)  # the leader has everything, so that a signal came too late for it
    else:
        code = max(word.code for word in words)
    # Ranks that end because another has failed have no words.
    return Ended(code, tuple(_error(word) for word in words if word.message))


def _send(ranks: list[_Rank], number: int) -> None:
    for rank in ranks:
        rank.send(number)


def _error(word: Word) -> McxError:
    kind = Stopped if word.code == Stopped.exit_code else McxError
    return kind(word.message, word.hint)


def name_of(code: int) -> str:
    """What ended a process, for a message; empty where it ended by itself."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""
