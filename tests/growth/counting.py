"""What a command does, counted: files opened, bytes in them, folders listed, files hashed, operations of the network.

No clock has a part in it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from modeconn_cli.engine.results import fingerprints


@dataclass
class Counts:
    """`opened` and `listed`: path -> how often; `read`: bytes of the files opened for reading, each time; `hashed`:
    the files whose bytes were read for their hash alone; `flops`: of matrix products and convolutions, both ways.
    """

    opened: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)
    hashed: Counter[str] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)

    def total(self) -> dict[str, int]:
        return {each.name: getattr(self, each.name).total() for each in fields(self)}


_counting: list[tuple[tuple[str, ...], Counts]] = []


def _hear(event: str, words: tuple[Any, ...]) -> None:
    if not _counting or event not in ("open", "os.listdir", "os.scandir"):
        return
    folders, counts = _counting[-1]
    if isinstance(words[0], str | bytes | Path) or hasattr(words[0], "__fspath__"):
        path = str(Path(str(words[0])).absolute())
        if path.startswith(folders):
            (counts.opened if event == "open" else counts.listed)[path] += 1
            if event == "open" and str(words[1]).startswith("r") and Path(path).is_file():
                counts.read[path] += Path(path).stat().st_size


sys.addaudithook(_hear)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> Iterator[Counts]:
    """Count what happens in folders and below."""
    counts, digest = Counts(), fingerprints.hashlib.file_digest

    def file_digest(stream: Any, name: str) -> Any:
        counts.hashed[str(stream.name)] += 1
        return digest(stream, name)

    with monkeypatch.context() as patch:
        patch.setattr(fingerprints.hashlib, "file_digest", file_digest)
        _counting.append((tuple(map(str, folders)), counts))
        try:
            with FlopCounterMode(display=False) as flops:
                yield counts
        finally:
            _counting.pop()
        counts.flops["all"] = flops.get_total_flops()


def growth(
    sizes: Sequence[int], measure: Callable[[int], Counts], work: Callable[[int], float] = float
) -> dict[str, float]:
    """By name, how many times as much is done for a further unit of `work` at large sizes as at small ones.

    1 for what grows as the work does, 0 for what stays, 2 for what grows as its square, where sizes double. What is
    there for any size drops out, as differences are compared, and so do the digits of numbers, a thousandth of all.
    """
    counts = [measure(size).total() for size in sizes]
    out = {}
    for name in counts[0]:
        small, middle, large = (each[name] for each in counts)
        first = (middle - small) / (work(sizes[1]) - work(sizes[0]))
        second = (large - middle) / (work(sizes[2]) - work(sizes[1]))
        added = large - middle > large / 1000
        out[name] = 0.0 if not added else second / first if first > 0 else float("inf")
    return out
