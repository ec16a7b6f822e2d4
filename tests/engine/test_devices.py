"""What this machine has."""

from __future__ import annotations

import os

import pytest
import torch

from modeconn_cli.engine.datasets.images import default_workers
from modeconn_cli.engine.machine import devices, launch
from modeconn_cli.engine.machine.ranks import Group
from modeconn_cli.engine.machine.runtime import Runtime


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six cores, and no way to ask which of them this process may use."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)


class Pair(Group):
    """One of two processes of this machine."""

    world, local_world = 2, 2


@pytest.mark.usefixtures("macos")
def test_cores_are_counted_where_no_affinity_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    Runtime(group=Pair())
    assert asked == [3]
    assert launch.count("auto", "cpu") == 6
    assert default_workers() == 5


@pytest.mark.usefixtures("macos")
def test_a_machine_that_does_not_know_its_cores_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert devices.cores() == 1


def test_only_the_cores_count_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert devices.cores() == 2
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    assert devices.cores() == 4
