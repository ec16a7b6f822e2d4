"""Which process this is, from what torchrun and SLURM say in the environment."""

from __future__ import annotations

import pytest

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.places import find, first_host

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "1234", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "6", "SLURM_NTASKS": "6", "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "3(x2)", "SLURM_STEP_NODELIST": "gpu[07-08]",
}  # fmt: skip


def test_torchruns_variables_are_taken_as_they_are() -> None:
    place = find(TORCHRUN)
    assert place is not None
    assert (place.rank, place.world, place.local_rank, place.local_world) == (5, 8, 1, 4)
    assert (place.address, place.port, place.agent, place.session) == ("10.0.0.1", 1234, True, "x0")


def test_a_step_of_srun_is_found_with_the_address_of_its_first_node() -> None:
    place = find(SRUN)
    assert place is not None
    assert (place.rank, place.world, place.local_rank, place.local_world) == (4, 6, 1, 3)
    assert (place.address, place.agent) == ("gpu07", False)
    assert 20000 <= place.port < 40000
    other = find({**SRUN, "SLURM_STEP_ID": "3", "SLURM_RESTART_COUNT": "1"})
    assert other is not None
    assert (other.port, other.session) != (place.port, place.session)
    assert find({**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "99"}).address == "head"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # an allocation, or the batch script
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_j6_a_process_on_its_own_stays_single(environment: dict[str, str]) -> None:
    assert find(environment) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "8"}, "RANK=8 is not one of WORLD_SIZE=8"),
        ({"RANK": "-1"}, "RANK=-1 is not one of"),
        ({"RANK": "x"}, "RANK is 'x', not a number"),
        ({"RANK": None}, "RANK is not set"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
    ],
)
def test_j1_variables_that_contradict_each_other_are_refused(
    change: dict[str, str | None], message: str
) -> None:
    environment = {name: value for name, value in {**TORCHRUN, **change}.items() if value is not None}
    with pytest.raises(SettingsError, match=message):
        find(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("a,b,c", "a"),
        ("gpu[003-005,009],other1", "gpu003"),
        ("gpu[7]", "gpu7"),
        ("rack[1-2]-n,x", "rack1-n"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_j6_a_command_typed_into_an_interactive_step_stays_single() -> None:
    assert find({**SRUN, "SLURM_PTY_PORT": "1"}, typed=True) is None
    assert find({**SRUN, "SLURM_PTY_PORT": "1"}) is not None  # started by srun from that shell
