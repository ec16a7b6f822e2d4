"""What the processes of torch.distributed tell each other, where a user's own loop has started it.

mcx itself never starts a process group (`machine/ranks.py` says why); a recorder in a loop that has one follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import distributed

from modeconn_cli.engine.errors import McxError

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class _Failed:
    error: McxError


def world() -> int:
    """How many processes there are; 1 where no group has been started."""
    return distributed.get_world_size() if _started() else 1


def together(own: Callable[[], T], of_all: Callable[[list[T]], U]) -> U:
    """What rank 0 makes of every rank's `own`, in the order of the ranks, on every rank.

    Every rank must call it. Where one of them raises an McxError, all raise it, and nobody waits for ever.
    """
    if world() == 1:
        return of_all([own()])
    first = distributed.get_rank() == 0
    shares: list[Any] | None = [None] * world() if first else None
    distributed.gather_object(_tried(own), shares, dst=0)
    told: list[Any] = [None]
    if shares is not None:
        failed = next((share for share in shares if isinstance(share, _Failed)), None)
        told = [_tried(lambda: of_all(shares)) if failed is None else failed]
    distributed.broadcast_object_list(told, src=0)
    if isinstance(told[0], _Failed):
        raise told[0].error
    found: U = told[0]
    return found


def _started() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _tried(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except McxError as error:
        return _Failed(error)
