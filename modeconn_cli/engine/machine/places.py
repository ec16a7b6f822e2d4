"""Where a process stands among others: what torchrun's or SLURM's variables say."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from modeconn_cli.engine.errors import SettingsError


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
