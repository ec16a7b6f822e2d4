"""Whole command lines in processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Started = subprocess.Popen[str]


@pytest.fixture
def start() -> Callable[..., Started]:
    """Start `mcx` with one thread and return at once."""

    def run(*words: str | Path, environment: Mapping[str, str] | None = None, group: bool = False) -> Started:
        return subprocess.Popen(
            [sys.executable, "-m", "modeconn_cli", *map(str, words), "--threads", "1"],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=group,
        )

    return run


@pytest.fixture
def ranks() -> list[dict[str, str]]:
    """The environments of two processes that find each other."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
