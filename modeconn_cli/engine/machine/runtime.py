"""The machine a command runs on: device, threads, stopping, and the channel to whoever watches."""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from modeconn_cli.engine.errors import Elsewhere, McxError
from modeconn_cli.engine.machine import memory
from modeconn_cli.engine.machine.devices import cores, find_device
from modeconn_cli.engine.machine.pace import Paces
from modeconn_cli.engine.machine.ranks import Group, join
from modeconn_cli.engine.settings.base import Settings
from modeconn_cli.engine.settings.shared import DistributedSettings

if TYPE_CHECKING:
    import torch

ECHO = 2.0  # seconds within which a second signal is the first one again: Ctrl-C at a rank, SIGTERM anywhere
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Listener(Protocol):
    """Who hears what the engine says."""

    def note(self, text: str, level: str = "note") -> None: ...

    def plan(self, lines: Sequence[str]) -> None: ...

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None: ...


class Silent:
    """A listener that hears nothing: for Python users and tests."""

    def note(self, text: str, level: str = "note") -> None:
        pass

    def plan(self, lines: Sequence[str]) -> None:
        pass

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        pass


class _Hushed(Silent):
    """Passes on warnings only, and `steps` where they are wanted."""

    def __init__(self, listener: Listener, steps: bool) -> None:
        self._to, self._steps = listener, steps

    def note(self, text: str, level: str = "note") -> None:
        if level == "warning":
            self._to.note(text, level)

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        if self._steps and unit == "step":
            self._to.progress(done, total, fields, unit)


class _Part:
    """Counts the steps of a part among those of the whole, and says which part it is.

    `own` of `whole` equal units are its own, and `offset` are done when it has done none.
    """

    def __init__(
        self, listener: Listener, offset: int, own: int, whole: int, fields: Mapping[str, Any]
    ) -> None:
        self._to, self._offset, self._own, self._whole, self._fields = listener, offset, own, whole, fields
        self.note, self.plan = listener.note, listener.plan

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        if unit == "step":
            done, total = done + self._offset * total // self._own, self._whole * total // self._own
        self._to.progress(done, total, {**self._fields, **fields}, unit)


class _Stage:
    """Counts the steps of one stage of a job after the `before` of earlier ones, of `whole` in all."""

    def __init__(self, listener: Listener, before: int, whole: int) -> None:
        self._to, self._before, self._whole = listener, before, whole
        self.note, self.plan = listener.note, listener.plan

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        if unit == "step":
            done, total = done + self._before, self._whole
        self._to.progress(done, total, fields, unit)


class _Followed:
    """Passes everything on and keeps how far the work is."""

    def __init__(self, listener: Listener, paces: Paces) -> None:
        self._to, self._paces = listener, paces
        self.note, self.plan = listener.note, listener.plan

    def progress(self, done: int, total: int, fields: Mapping[str, Any], unit: str = "step") -> None:
        self._paces.see(done, total, unit)
        self._to.progress(done, total, fields, unit)


class Opened:
    """What a command has opened, for the record of whatever it makes; the parts of a job share it.

    `code` are the source files of the user's own network and data, by the words that name them.
    """

    def __init__(self) -> None:
        self.code: dict[str, Path | None] = {}
        self._data: Callable[[], Mapping[str, str]] = dict

    def take_data(self, identity: Callable[[], Mapping[str, str]]) -> None:
        """Data have been read; `identity` tells them from others (name -> what differs), asked for when needed."""
        self._data = identity

    def data(self) -> dict[str, str]:
        """What tells the data from others; empty where none were read."""
        return dict(self._data())


@dataclass
class _Signal:
    """Whether a signal has asked to stop, which, and when; the parts of a job share it."""

    stop: bool = False
    number: int = 0
    at: float = 0.0


class Runtime:
    """Device, threads and the conversation of one command.

    `device` None is for commands that compute nothing with tensors: torch, two seconds, is then imported only
    if the device or the threads are asked for after all.
    """

    def __init__(
        self,
        *,
        device: str | None = "cpu",
        threads: int | None = None,
        deterministic: bool = False,
        listener: Listener | None = None,
        command: str = "",
        dry_run: bool = False,
        group: Group | None = None,
    ) -> None:
        self.command = command
        self.dry_run = dry_run
        self.group = group or Group()
        self.group.asked = lambda: self._signal.stop
        # What one rank says is what all would say.
        self._listener: Listener = (listener if self.group.leader else None) or Silent()
        self._said: set[str] = set()
        self._signal = _Signal()
        self.opened = Opened()
        self.deterministic = deterministic
        if device is not None:
            self._prepare_torch(device, threads)

    def _prepare_torch(self, device: str, threads: int | None) -> None:
        import torch

        self.device = find_device(device, self.group.local_rank)
        if threads is None and self.group.world > 1:
            threads = max(1, cores() // self.group.local_world)
        if threads is not None:
            torch.set_num_threads(threads)
        # The GPU rounds products to TF32 by default in convolutions; every number here is float32.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # To set what is set already would import torch's compiler, more than a second.
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic)

    @cached_property
    def device(self) -> torch.device:
        """The CPU for a command that has not asked for a device."""
        return find_device("cpu")

    @cached_property
    def threads(self) -> int:
        import torch

        return torch.get_num_threads()

    def hushed(self, *, steps: bool = False) -> Runtime:
        """Make a runtime of the same machine for a part of a larger job; it passes on warnings, and `steps`."""
        part = copy.copy(self)
        part._listener = _Hushed(self._listener, steps)
        return part

    def for_command(self) -> Runtime:
        """Make a runtime of the same machine for a command that is a part of a story: it has opened nothing yet."""
        part = copy.copy(self)
        part.opened = Opened()
        return part

    def part(self, offset: int, own: int, whole: int, **fields: Any) -> Runtime:
        """Make a runtime for a part of a job: `own` of its `whole` equal units, after `offset` others.

        Steps are counted over the whole; `fields` stand before those of its progress and say which part it is.
        """
        part = copy.copy(self)
        part._listener = _Part(self._listener, offset, own, whole, fields)
        return part

    def stage(self, before: int, whole: int) -> Runtime:
        """Make a runtime for a stage of a job whose steps are others than those before it: a position after an epoch.

        Its steps are counted after the `before` of earlier stages, of `whole` in all, so that the count never falls.
        """
        part = copy.copy(self)
        part._listener = _Stage(self._listener, before, whole)
        return part

    @contextlib.contextmanager
    def followed(self) -> Iterator[Paces]:
        """How far the work is that is done meanwhile, here and in the parts that are made of this runtime."""
        before, paces = self._listener, Paces()
        self._listener = _Followed(before, paces)
        try:
            yield paces
        finally:
            self._listener = before

    def note(self, text: str, *, once: bool = False) -> None:
        """Something the user should know; `once`: though it is true of many files."""
        if not once or text not in self._said:
            self._listener.note(text)
        self._said.add(text)

    def detail(self, text: str) -> None:
        """Something the curious user may know (-v)."""
        self._listener.note(text, level="detail")

    def warn(self, text: str) -> None:
        """Something that may make the result useless."""
        self._listener.note(text, level="warning")

    def plan(self, lines: Sequence[str]) -> bool:
        """Say what is going to be done; True when that was all that was asked for."""
        self._listener.plan(lines)
        return self.dry_run

    def progress(self, done: int, total: int, unit: str = "step", **fields: Any) -> None:
        """`done` of `total` work units; the end of a unit other than a step always leaves a line in logs."""
        self._listener.progress(done, total, fields, unit)

    def stopping(self) -> bool:
        """Whether a signal asked the job to save and end, here or at another rank; asked at the end of every step."""
        return self.group.stopping(self._signal.stop)

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """While a job that can save itself runs, signals only set a flag; a second Ctrl-C, or SIGTERM, ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # A terminal's Ctrl-C reaches a rank twice, from the terminal and from its launcher; `timeout` and schedulers
        # send SIGTERM to a process and to its group. A rank's second SIGTERM is its launcher's, which knows its time.
        echo, alone = time.monotonic() - self._signal.at < ECHO, self.group.world == 1
        if self._signal.stop and number == signal.SIGINT and (alone or not echo):
            raise KeyboardInterrupt
        if self._signal.number == number == signal.SIGTERM and alone and not echo:
            raise SystemExit(128 + number)
        if not self._signal.stop:
            self._signal.number, self._signal.at = number, time.monotonic()
        self._signal.stop = True


def start(settings: Settings, *, listener: Listener, command: str, dry_run: bool = False) -> Runtime:
    """The runtime that a command's settings ask for; commands without compute settings leave torch alone."""
    group = Group()
    if isinstance(settings, DistributedSettings):
        group = join(wanted=settings.dist == "auto", timeout=settings.dist_timeout)
    try:
        runtime = Runtime(
            device=getattr(settings, "device", None),
            threads=getattr(settings, "threads", None),
            deterministic=getattr(settings, "deterministic", False),
            listener=listener,
            command=command,
            dry_run=dry_run,
            group=group,
        )
        if hasattr(settings, "device") and runtime.device.type == "cpu":
            memory.keep()
        return runtime
    except McxError as error:
        if not group.failed(error):
            raise Elsewhere(error.exit_code) from error
        raise
