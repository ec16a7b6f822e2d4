"""A reference in a process of its own, with the allocator and the threads that its users have."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from bench.pairs import Seconds


class Apart:
    """`prepare` is called once in a new process and gives what every call runs there; the seconds are those of it."""

    def __init__(self, prepare: Callable[[], Callable[[], object]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        context.Process(target=_serve, args=(there, prepare, torch.get_num_threads()), daemon=True).start()
        there.close()

    def __call__(self) -> Seconds:
        self._here.send(None)
        return Seconds(self._here.recv())


def _serve(asked: Connection, prepare: Callable[[], Callable[[], object]], threads: int) -> None:
    torch.set_num_threads(threads)
    run = prepare()
    while True:
        try:
            asked.recv()
        except EOFError:  # the bench has ended
            return
        begun = time.perf_counter()
        run()
        asked.send(time.perf_counter() - begun)
