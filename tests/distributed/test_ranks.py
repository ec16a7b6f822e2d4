"""What ranks tell each other, three of them in threads of one process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modeconn_cli.engine.errors import Elsewhere, InputError, SettingsError, Stopped
from modeconn_cli.engine.machine.places import find
from modeconn_cli.engine.machine.ranks import Many

WORLD = 3


@pytest.fixture
def three(ranks: list[dict[str, str]]) -> Iterator[list[Many]]:
    def join(rank: int) -> Many:
        place = find({**ranks[0], "WORLD_SIZE": str(WORLD), "RANK": str(rank), "LOCAL_RANK": str(rank)})
        assert place is not None
        return Many(place, timeout=3)

    with ThreadPoolExecutor(WORLD) as threads:
        groups = list(threads.map(join, range(WORLD)))
        yield groups
        list(threads.map(Many.leave, groups))


def together(groups: list[Many], function: Callable[[Many], Any]) -> list[Any]:
    """What every rank's call returns or raises."""

    def call(group: Many) -> Any:
        try:
            return function(group)
        except (Elsewhere, InputError, Stopped) as error:
            return error

    with ThreadPoolExecutor(len(groups)) as threads:
        return list(threads.map(call, groups))


def test_all_hear_what_each_has_given_in_the_order_of_the_ranks(three: list[Many]) -> None:
    assert together(three, lambda group: group.gather(group.rank**2)) == [[0, 1, 4]] * WORLD
    assert together(three, lambda group: group.lead(lambda: group.rank + 7)) == [7] * WORLD


def test_a_rank_that_gives_nothing_is_named_by_all_others(three: list[Many]) -> None:
    for error in together(three[:2], lambda group: group.gather(None)):
        assert (type(error), error.message) == (Stopped, "rank 2 has said nothing for 3 s")


def test_who_says_that_a_step_is_done_waits_for_nobody_and_who_waits_for_some_waits_for_them(
    three: list[Many],
) -> None:
    tallies = [(group.tally(), group.tally()) for group in three]
    for (steps, _), count in zip(tallies, (3, 1, 2), strict=True):
        for _ in range(count):
            steps.add()
    assert [(steps.least(), others.least()) for steps, others in tallies] == [(1, 0)] * WORLD
    tallies[1][0].wait([0, 2], 2)
    silent = [Stopped, "rank 1 has said nothing for 3 s"]
    late, *_ = together(three[:1], lambda group: tallies[group.rank][0].wait(range(WORLD), 2))
    assert [type(late), late.message] == silent
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(tallies[0][0].wait, range(WORLD), 2)
        tallies[1][0].add()
        assert waiting.result() is None


def test_j2_an_error_of_the_leader_is_heard_by_all_and_said_once(three: list[Many]) -> None:
    wrong = InputError("'a.pt' is empty (0 bytes)")

    def fail() -> None:
        raise wrong

    first, *others = together(three, lambda group: group.lead(fail))
    assert first is wrong
    assert [(type(error), error.exit_code, error.cause) for error in others] == [
        (Elsewhere, 3, wrong.message)
    ] * 2
    assert [group.failed(error) for group, error in zip(three, (wrong, *others), strict=True)] == [
        True,
        False,
        False,
    ]


def test_j2_of_two_errors_the_first_is_heard(three: list[Many]) -> None:
    assert three[2].failed(InputError("no such file"))
    assert not three[1].failed(ValueError("a bug"))
    with pytest.raises(Elsewhere) as caught:
        three[0].stopping(local=False)
    assert (caught.value.exit_code, caught.value.cause) == (3, "no such file")


def test_j5_one_that_is_asked_to_stop_stops_all(three: list[Many]) -> None:
    assert three[1].stopping(local=True)
    assert [group.stopping(local=False) for group in three] == [True] * WORLD


def test_j10_what_others_see_otherwise_is_named(three: list[Many]) -> None:
    first, *others = together(
        three, lambda group: group.agree(lambda: {"data set": "digits", "file": group.rank // 2})
    )
    assert [first, others[0]] == [None, None]
    assert others[1].message == "this rank sees another file than rank 0"


def test_j1_a_port_that_is_none_is_refused_at_once(ranks: list[dict[str, str]]) -> None:
    place = find({**ranks[1], "MASTER_PORT": "70000"})
    assert place is not None
    with pytest.raises(SettingsError, match="rank 1 found no store at localhost:70000: "):
        Many(place, timeout=3)


def test_j1_a_port_of_another_program_is_given_up(
    ranks: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and says nothing, for ever."""
    monkeypatch.setattr("modeconn_cli.engine.machine.ranks.MARGIN", 0.5)
    place = find(ranks[1])
    assert place is not None
    none = f"rank 1 found no store at localhost:{place.port}: "
    with socket.create_server(("localhost", place.port)), pytest.raises(SettingsError, match=none):
        Many(place, timeout=1)
