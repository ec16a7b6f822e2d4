"""Several processes that share the work units of one job: who is here, who does what, and who speaks.

Ranks exchange a few words (what is left to do, which files there are, that one has ended) through torch's key-value
store, and their results through files. Nothing else passes between them, so no process group of gloo or NCCL has to
come up, and a rank that dies leaves no other in the middle of a collective.
"""

from __future__ import annotations

import datetime
import json
import os
import queue
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from modeconn_cli.engine.errors import Elsewhere, InputError, McxError, SettingsError, Stopped

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")
U = TypeVar("U")
Answer = queue.Queue[tuple[Any, Exception | None]]

POLL = 0.02  # seconds between two looks at the store
LOOK = 0.5  # seconds between two looks for a stop of all
_AGAIN = "finished parts are kept: run the same command again; --dist-timeout waits longer"


@dataclass(frozen=True)
class Place:
    """A process among others: `local` counts on its own machine."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int
    session: str  # what tells this start from others at the same store
    agent: bool  # whether a launcher holds the store


def find(environment: Mapping[str, str], *, typed: bool = False) -> Place | None:
    """The place that torchrun's or SLURM's variables give; None for a process on its own.

    SLURM's are those of a running step with several tasks; `typed` by hand into a step's interactive shell a command
    stays single. Raises SettingsError for variables that contradict each other or are not all there.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1 and not (
        typed and "SLURM_PTY_PORT" in environment
    ):
        return _of_slurm(environment)
    return None


def _of_torchrun(environment: Mapping[str, str]) -> Place | None:
    world = _number(environment, "WORLD_SIZE", 1)
    rank = _number(environment, "RANK", 0 if world == 1 else None)
    if not 0 <= rank < world:
        raise SettingsError(
            f"RANK={rank} is not one of WORLD_SIZE={world} processes",
            "start with torchrun, or pass --dist off",
        )
    if world == 1:
        return None
    if "MASTER_ADDR" not in environment:
        raise SettingsError(
            "WORLD_SIZE is set, MASTER_ADDR is not", "start with torchrun, or pass --dist off"
        )
    local_world = _number(environment, "LOCAL_WORLD_SIZE", 1)
    return Place(
        rank=rank,
        world=world,
        local_rank=_number(environment, "LOCAL_RANK", rank % local_world),
        local_world=local_world,
        address=environment["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT", 29500),
        session=environment.get("TORCHELASTIC_RUN_ID", "")
        + environment.get("TORCHELASTIC_RESTART_COUNT", ""),
        agent=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _of_slurm(environment: Mapping[str, str]) -> Place:
    world = _number(environment, "SLURM_STEP_NUM_TASKS", None)
    job, step = _number(environment, "SLURM_JOB_ID", 0), environment.get("SLURM_STEP_ID", "0")
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    address = environment.get("MASTER_ADDR") or first_host(hosts)
    if not address:
        raise SettingsError(
            "SLURM names no node for the first process", "set MASTER_ADDR, or pass --dist off"
        )
    # SLURM writes 2(x3),1 for two tasks on each of three nodes and one on a fourth; nodes have as many as the first.
    tasks = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return Place(
        rank=_number(environment, "SLURM_PROCID", None),
        world=world,
        local_rank=_number(environment, "SLURM_LOCALID", None),
        local_world=int(tasks[0]) if tasks else world,
        address=address,
        port=_number(environment, "MASTER_PORT", 20000 + zlib.crc32(f"{job}.{step}".encode()) % 20000),
        session=f"{job}.{step}.{environment.get('SLURM_RESTART_COUNT', '0')}",
        agent=False,
    )


def first_host(nodes: str) -> str:
    """`node003` of SLURM's `node[003-005,009],other1`."""
    found = re.match(r"([^,\[]*)(?:\[(\d+)[^\]]*\])?([^,\[]*)", nodes)
    return "" if found is None else "".join(part or "" for part in found.groups())


def _number(environment: Mapping[str, str], name: str, default: int | None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        what = "is not set" if text is None else f"is '{text}', not a number"
        raise SettingsError(f"{name} {what}", "start with torchrun or srun, or pass --dist off") from None


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
        """Every rank's value (as JSON holds it), in the order of the ranks."""
        return [value]

    def beat(self) -> None:
        """This process lives; called after every unit, and when it asks whether to stop."""

    def stopping(self, local: bool) -> bool:
        """Whether this process or any other was asked to stop."""
        return local

    def failed(self, error: McxError) -> bool:
        """Tell the others of an error; whether this process is the first, which speaks."""
        del error
        return True

    def finish(self) -> None:
        """Wait until every process has ended its units."""

    def leave(self) -> None:
        """The last call."""


class Many(Group):
    """One of several processes. Every wait ends when another rank fails, or says nothing for `timeout` seconds."""

    def __init__(self, place: Place, timeout: float) -> None:
        super().__init__()
        self.rank, self.world = place.rank, place.world
        self.local_rank, self.local_world = place.local_rank, place.local_world
        self._timeout, self._turn, self._looked, self._stop = timeout, 0, 0.0, False
        self._agent = place.agent
        self._store = _Talk(place, timeout)
        self._meet(place)

    def _meet(self, place: Place) -> None:
        """Wait for all ranks. Raises SettingsError where one does not come."""
        self._set(f"here/{self.rank}", True)
        end = time.monotonic() + self._timeout
        while missing := [rank for rank in range(self.world) if not self._store.check(f"here/{rank}")]:
            if time.monotonic() > end:
                raise SettingsError(
                    f"rank {self.rank} found no rank {missing[0]} at {place.address}:{place.port}",
                    "start all ranks, or pass --dist off",
                )
            time.sleep(POLL)

    def lead(self, function: Callable[[], T]) -> T:
        self._turn += 1
        key = f"lead/{self._turn}"
        if not self.leader:
            return cast("T", self._follow(key))
        try:
            value = function()
        except BaseException as error:
            with suppress(Stopped):  # what went wrong here is what has to be heard
                self._set(key, {"error": _described(error)})
            raise
        self._set(key, {"value": value})
        return value

    def _follow(self, key: str) -> Any:
        self._wait(lambda: self._store.check(key), [0])
        said = json.loads(self._store.get(key))
        if "error" in said:
            raise Elsewhere(said["error"]["exit_code"], said["error"]["message"])
        return said["value"]

    def agree(self, look: Callable[[], Mapping[str, Any]]) -> None:
        mine = look()
        check_same(mine, self.lead(lambda: mine))

    def gather(self, value: T) -> list[T]:
        self._turn += 1
        self._set(f"gather/{self._turn}/{self.rank}", value)
        keys = [f"gather/{self._turn}/{rank}" for rank in range(self.world)]
        others = [rank for rank in range(self.world) if rank != self.rank]
        self._wait(lambda: all(self._store.check(key) for key in keys), others)
        return [json.loads(self._store.get(key)) for key in keys]

    def beat(self) -> None:
        self._store.add(f"beat/{self.rank}", 1)

    def stopping(self, local: bool) -> bool:
        if local and not self._stop:
            self._set("stop", self.rank)
            self._stop = True
        if time.monotonic() - self._looked > LOOK:  # asked at every step, which need not wait for the store
            self._looked = time.monotonic()
            self.beat()
            self._end_with_others()
            self._stop = self._stop or self._store.check("stop")
        return self._stop

    def _end_with_others(self) -> None:
        """Raises Elsewhere where another rank has failed."""
        if self._store.check("failed"):
            said = json.loads(self._store.get("failed"))
            raise Elsewhere(said["exit_code"], said["message"])

    def failed(self, error: McxError) -> bool:
        try:
            first = self._store.add("failures", 1) == 1
            if first:
                self._set("failed", _described(error))
        except Stopped:  # the store has gone with the leader, which said nothing
            return True
        return first

    def finish(self) -> None:
        self._set(f"done/{self.rank}", True)
        if self.leader:
            others = list(range(1, self.world))
            self._wait(lambda: all(self._store.check(f"done/{rank}") for rank in others), others)

    def leave(self) -> None:
        """The leader goes last where it holds the store."""
        with suppress(Stopped):
            self._set(f"left/{self.rank}", True)
            end = time.monotonic() + 10
            while self.leader and not self._agent and time.monotonic() < end:
                if all(self._store.check(f"left/{rank}") for rank in range(self.world)):
                    break
                time.sleep(POLL)

    def _set(self, key: str, value: Any) -> None:
        self._store.set(key, json.dumps(value))

    def _wait(self, there: Callable[[], bool], ranks: Sequence[int]) -> None:
        """Until `there`, as long as one of `ranks` gives signs of life."""
        beats, since = self._beats(ranks), time.monotonic()
        while not there():
            self._end_with_others()
            if self.asked():
                raise Stopped(
                    "stopped by a signal while waiting for other ranks", "run the same command again"
                )
            time.sleep(POLL)
            now = self._beats(ranks)
            if now != beats:
                beats, since = now, time.monotonic()
            elif time.monotonic() - since > self._timeout:
                raise Stopped(
                    f"rank {ranks[0] if len(ranks) == 1 else list(ranks)} has said nothing for {self._timeout:g} s",
                    _AGAIN,
                )

    def _beats(self, ranks: Sequence[int]) -> list[int]:
        return [self._store.add(f"beat/{rank}", 0) for rank in ranks]


class _Talk:
    """Torch's store, spoken to in a thread of its own: a store that does not answer stops no signal and no time-out."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._timeout, self._dead, self._prefix = timeout, False, ""
        self._asked: queue.Queue[tuple[Callable[[], Any], Answer]] = queue.Queue()
        threading.Thread(target=self._speak, daemon=True).start()
        self._store = self._connected(place)
        # A launcher's store outlives a command: the next one must not read what this one has said.
        visits = self.add(f"mcx/{place.session}/visits/{place.rank}", 1)
        self._prefix = f"mcx/{place.session}/{visits}/"

    def set(self, key: str, value: str) -> None:
        self._call(lambda: self._store.set(self._prefix + key, value))

    def get(self, key: str) -> bytes:
        return self._call(lambda: self._store.get(self._prefix + key))

    def add(self, key: str, amount: int) -> int:
        return self._call(lambda: self._store.add(self._prefix + key, amount))

    def check(self, key: str) -> bool:
        return self._call(lambda: self._store.check([self._prefix + key]))

    def _connected(self, place: Place) -> Store:
        """The store at the address of rank 0, or of the launcher. Raises SettingsError where nobody answers."""
        from torch import distributed

        end = time.monotonic() + self._timeout
        while True:
            try:
                return cast("Store", self._call(lambda: distributed.TCPStore(  # type: ignore[attr-defined]
                    place.address, place.port, None, is_master=place.rank == 0 and not place.agent,
                    timeout=datetime.timedelta(seconds=min(self._timeout, 5)), wait_for_workers=False,
                )))  # fmt: skip
            except Stopped as error:
                if time.monotonic() > end or place.rank == 0:
                    raise SettingsError(
                        f"rank {place.rank} found no store at {place.address}:{place.port}: {error.message}",
                        "start all ranks, set MASTER_ADDR and MASTER_PORT, or pass --dist off",
                    ) from error

    def _call(self, function: Callable[[], T]) -> T:
        """Raises Stopped where the store has gone, or does not answer in time."""
        said: Answer = queue.Queue()  # of its own: a late answer is nobody else's
        self._asked.put((function, said))
        try:
            value, error = said.get(timeout=0 if self._dead else self._timeout)
        except queue.Empty:
            self._dead = True
            raise Stopped(f"rank 0 has said nothing for {self._timeout:g} s", _AGAIN) from None
        if error is not None:
            raise Stopped(f"rank 0 does not answer: {str(error).splitlines()[0][:120]}", _AGAIN) from error
        return cast("T", value)

    def _speak(self) -> None:
        while True:
            function, said = self._asked.get()
            try:
                said.put((function(), None))
            except Exception as error:  # noqa: BLE001 - raised again where it was asked
                said.put((None, error))


def check_same(mine: Mapping[str, Any], leaders: Mapping[str, Any]) -> None:
    """Raises InputError, naming the first thing that this rank sees otherwise than the leader."""
    other = next((name for name in mine if leaders.get(name) != mine[name]), None)
    if other is not None:
        raise InputError(f"this rank sees another {other} than rank 0", "all ranks need the same files")


def _described(error: BaseException) -> dict[str, Any]:
    """What other ranks are told of an error."""
    if isinstance(error, McxError):
        return {"message": error.message, "exit_code": error.exit_code}
    return {"message": f"{type(error).__name__}: {error}", "exit_code": 1}


def join(environment: Mapping[str, str] | None = None, *, wanted: bool = True, timeout: float = 600) -> Group:
    """The group that the environment describes, or a process on its own."""
    typed = sys.stdin is not None and sys.stdin.isatty()
    place = find(os.environ if environment is None else environment, typed=typed) if wanted else None
    return Group() if place is None else Many(place, timeout)
