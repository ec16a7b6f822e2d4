"""Several processes that share the work units of one job: who is here, who does what, and who speaks.

Ranks tell each other a few words (what is left to do, which files there are, that one has ended) through torch's
key-value store, and hand over results in files. The collectives of a process group would not do: a rank inside one
hears neither a signal nor that another rank has failed, and gives a leader up that trains for longer than the
time-out, however alive it is.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import TimeoutError as NoAnswer
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any, TypeVar

from modeconn_cli.engine.errors import CONTINUE, Elsewhere, InputError, McxError, SettingsError, Stopped
from modeconn_cli.engine.machine.places import Place, find

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

T = TypeVar("T")
U = TypeVar("U")

POLL = 0.02  # seconds between two looks at the store
LOOK = 0.5  # seconds between two looks for a stop of all
MARGIN = 5  # seconds that a connection has for ending by itself; one to another program never does
LEAVING = 10  # seconds that the holder of the store waits for the others to leave
_AGAIN = "finished parts are kept: run the same command again; --dist-timeout waits longer"


class Tally:
    """How many steps each rank has done; who says so waits for nobody. Here of a process on its own."""

    def __init__(self) -> None:
        self._own = 0

    def add(self) -> None:
        """One more step of this rank is done."""
        self._own += 1

    def least(self) -> int:
        """The steps that every rank has done."""
        return self._own

    def wait(self, ranks: Sequence[int], steps: int) -> None:
        """Until each of the ranks has done so many steps."""


class Group:
    """A process on its own: leader of itself."""

    rank, world, local_rank, local_world = 0, 1, 0, 1

    def __init__(self) -> None:
        self.asked: Callable[[], bool] = lambda: False  # whether a signal has asked this process to stop

    @property
    def leader(self) -> bool:
        """The one that writes results and speaks."""
        return self.rank == 0

    def share(self, units: Sequence[U]) -> list[U]:
        """The units that fall to this process: every world-th."""
        return list(units[self.rank :: self.world])

    def lead(self, function: Callable[[], T]) -> T:
        """What the leader's call returns (as JSON holds it), or raises, on every rank."""
        return function()

    def agree(self, look: Callable[[], Mapping[str, Any]]) -> None:
        """Raises InputError where what this rank sees (name -> what JSON holds) is not what the leader does."""

    def gather(self, value: T) -> list[T]:
        """Every rank's value (as JSON holds it), in the order of the ranks, once all have given theirs."""
        return [value]

    def tally(self) -> Tally:
        """A new count of steps; every rank asks for the same ones in the same order."""
        return Tally()

    def beat(self) -> None:
        """This process lives; called after every unit, and when it asks whether to stop."""

    def stopping(self, local: bool) -> bool:
        """Whether this process or any other was asked to stop."""
        return local

    def failed(self, error: BaseException) -> bool:
        """Tell the others of an error; whether this process is the first, which speaks."""
        del error
        return True

    def leave(self) -> None:
        """The last call."""


class Many(Group):
    """One of several processes. Every wait ends when another rank fails, or says nothing for `timeout` seconds."""

    def __init__(self, place: Place, timeout: float) -> None:
        super().__init__()
        self.rank, self.world = place.rank, place.world
        self.local_rank, self.local_world = place.local_rank, place.local_world
        self._holds_store = self.leader and not place.agent
        self._timeout, self._turn, self._looked, self._stop = timeout, 0, 0.0, False
        self._tallies = 0
        self._store = _Store(place, timeout)
        self._meet(place)

    def _meet(self, place: Place) -> None:
        """Wait for all ranks. Raises SettingsError where one does not come."""
        self._store.set(f"here/{self.rank}", True)
        end = time.monotonic() + self._timeout
        while missing := self._missing("here", range(self.world)):
            if time.monotonic() > end:
                raise SettingsError(
                    f"rank {self.rank} found no rank {missing[0]} at {place.address}:{place.port}",
                    "start all ranks, or pass --dist off",
                )
            time.sleep(POLL)

    def lead(self, function: Callable[[], T]) -> T:
        if not self.leader:
            value: T = self._exchange("lead", [0])[0]
            return value
        try:
            value = function()
        except BaseException as error:
            self.failed(error)
            raise
        self._exchange("lead", [0], value)
        return value

    def agree(self, look: Callable[[], Mapping[str, Any]]) -> None:
        mine = look()
        check_same(mine, self.lead(lambda: mine))

    def gather(self, value: T) -> list[T]:
        return self._exchange("gather", range(self.world), value)

    def tally(self) -> Tally:
        self._tallies += 1
        return _Shared(self, f"tally/{self._tallies}")

    def beat(self) -> None:
        self._store.add(f"beat/{self.rank}", 1)

    def add(self, word: str, rank: int, amount: int) -> int:
        """The sum of all that was added to a rank's word, this included."""
        return self._store.add(f"{word}/{rank}", amount)

    def wait(self, missing: Callable[[], Sequence[int]]) -> None:
        """Until no rank is missing, as long as one of those that are gives signs of life.

        Raises Elsewhere where another rank has failed, Stopped where the missing are silent or a signal has asked this
        rank to stop.
        """
        beats, since = list[int](), time.monotonic()
        while silent := missing():
            self._end_with_others()
            if self.asked():
                raise Stopped("stopped while waiting for other ranks", CONTINUE)
            now = [self.add("beat", rank, 0) for rank in silent]
            if now != beats:
                beats, since = now, time.monotonic()
            elif time.monotonic() - since > self._timeout:
                named = silent[0] if len(silent) == 1 else list(silent)
                raise Stopped(f"rank {named} has said nothing for {self._timeout:g} s", _AGAIN)
            time.sleep(POLL)

    def stopping(self, local: bool) -> bool:
        if local and not self._stop:
            self._store.set("stop", self.rank)
            self._stop = True
        if time.monotonic() - self._looked > LOOK:  # asked at every step, which need not wait for the store
            self._looked = time.monotonic()
            self.beat()
            self._end_with_others()
            self._stop = self._stop or self._store.has("stop")
        return self._stop

    def failed(self, error: BaseException) -> bool:
        if isinstance(error, McxError):
            said = {"exit_code": error.exit_code, "cause": error.message}
        else:
            said = {"exit_code": 1, "cause": f"{type(error).__name__}: {error}"}
        try:
            return self._store.first("failed", {"rank": self.rank, **said})
        except Stopped:  # the store has gone with the leader, which said nothing
            return True

    def leave(self) -> None:
        """The leader goes last where it holds the store."""
        with suppress(Stopped):
            self._store.set(f"left/{self.rank}", True)
            end = time.monotonic() + LEAVING
            while self._holds_store and time.monotonic() < end and self._missing("left", range(self.world)):
                time.sleep(POLL)
        self._store.close()

    def _exchange(self, word: str, speakers: Sequence[int], value: Any = None) -> list[Any]:
        """What the speakers give at this turn, in their order; this rank's is `value` where it is one of them.

        Waits and raises as `wait` does.
        """
        self._turn += 1
        turn = f"{word}/{self._turn}"
        if self.rank in speakers:
            self._store.set(f"{turn}/{self.rank}", value)
        self.wait(lambda: self._missing(turn, speakers))
        return [self._store.get(f"{turn}/{rank}") for rank in speakers]

    def _missing(self, word: str, ranks: Sequence[int]) -> list[int]:
        """Which of the ranks have not given their word yet."""
        return [rank for rank in ranks if not self._store.has(f"{word}/{rank}")]

    def _end_with_others(self) -> None:
        """Raises Elsewhere where another rank has failed."""
        if self._store.has("failed"):
            said = self._store.get("failed")
            raise Elsewhere(said["exit_code"], said["cause"])


class _Shared(Tally):
    """The count of several ranks, in their store."""

    def __init__(self, group: Many, word: str) -> None:
        self._group, self._word = group, word

    def add(self) -> None:
        self._group.add(self._word, self._group.rank, 1)

    def least(self) -> int:
        return min(self._done(rank) for rank in range(self._group.world))

    def wait(self, ranks: Sequence[int], steps: int) -> None:
        self._group.wait(lambda: [rank for rank in ranks if self._done(rank) < steps])

    def _done(self, rank: int) -> int:
        return self._group.add(self._word, rank, 0)


class _Store:
    """What JSON holds, by key, in torch's store at rank 0 or at the launcher.

    A call to torch's store lasts until it answers, time-out or not, and Python hears no signal meanwhile. So it is
    asked in a thread of its own, one question after the other. Every method raises Stopped where it has gone, or
    does not answer for `timeout` seconds.
    """

    def __init__(self, place: Place, timeout: float) -> None:
        from torch import distributed

        self._timeout, self._silent = timeout, False
        self._thread = ThreadPool(1)
        session = distributed.PrefixStore(f"mcx/{place.session}", self._connected(place))  # type: ignore[attr-defined]
        # A launcher's store outlives a command: the next one must not read what this one has said.
        visit = self._ask(lambda: session.add(f"visits/{place.rank}", 1))
        self._store = distributed.PrefixStore(str(visit), session)  # type: ignore[attr-defined]

    def set(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        self._ask(lambda: self._store.set(key, text))

    def get(self, key: str) -> Any:
        return json.loads(self._ask(lambda: self._store.get(key)))

    def has(self, key: str) -> bool:
        return self._ask(lambda: self._store.check([key]))

    def add(self, key: str, amount: int) -> int:
        """The sum of all that was added, this included."""
        return self._ask(lambda: self._store.add(key, amount))

    def first(self, key: str, value: Any) -> bool:
        """Set what has no value yet; whether the value is this one now."""
        text = json.dumps(value)
        return self._ask(lambda: self._store.compare_set(key, "", text)) == text.encode()

    def close(self) -> None:
        """Nothing more is asked."""
        self._thread.close()

    def _connected(self, place: Place) -> TCPStore:
        """The store at the place's address. Raises SettingsError where nobody answers."""
        from torch import distributed

        def connect() -> TCPStore:
            return distributed.TCPStore(  # type: ignore[attr-defined]
                place.address,
                place.port,
                is_master=place.rank == 0 and not place.agent,
                timeout=datetime.timedelta(seconds=self._timeout),
                wait_for_workers=False,
            )

        try:
            return self._ask(connect, MARGIN)  # its own end says more
        except (Stopped, TypeError) as error:  # a port that is none is a TypeError
            self.close()
            why = str(error).splitlines()[0]
            raise SettingsError(
                f"rank {place.rank} found no store at {place.address}:{place.port}: {why}",
                "start all ranks, set MASTER_ADDR and MASTER_PORT, or pass --dist off",
            ) from error

    def _ask(self, question: Callable[[], T], more: float = 0) -> T:
        """The answer, waited for as long as for any rank and `more` seconds. Raises Stopped where none comes."""
        patience = 0 if self._silent else self._timeout + more
        try:
            return self._thread.apply_async(question).get(patience)
        except NoAnswer:
            self._silent = True
            raise Stopped(f"rank 0 has said nothing for {self._timeout:g} s", _AGAIN) from None
        except RuntimeError as error:
            raise Stopped(f"rank 0 does not answer: {str(error).splitlines()[0][:120]}", _AGAIN) from error


def check_same(mine: Mapping[str, Any], leaders: Mapping[str, Any]) -> None:
    """Raises InputError, naming the first thing that this rank sees otherwise than the leader."""
    other = next((name for name in {**mine, **leaders} if leaders.get(name) != mine.get(name)), None)
    if other is None:
        return
    if other not in mine:
        what = f"this rank lacks the {other} that rank 0 has"
    elif other not in leaders:
        what = f"this rank has a {other} that rank 0 lacks"
    else:
        what = f"this rank sees another {other} than rank 0"
    raise InputError(what, "all ranks need the same files")


def join(*, wanted: bool = True, timeout: float = 600) -> Group:
    """The group that the environment describes, or a process on its own."""
    typed = sys.stdin is not None and sys.stdin.isatty()
    place = find(os.environ, typed=typed) if wanted else None
    return Group() if place is None else Many(place, timeout)
