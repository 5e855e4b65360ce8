"""What the fault matrix says of what clients have got, and which faults it goes through."""

import itertools
import socket
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest

from tests.counting import ClientDoor, Count
from tests.fleet.faults import FAULTS, Fault, chosen
from tests.fleet.test_faults import Share
from tests.hammer import Load


def counted(numbers: list[int], *, error: str = "", last: int = 5) -> Count:
    return Count(last=last, stream=True, status=200, numbers=numbers, error=error)


@pytest.mark.parametrize(
    ("made", "is_whole", "left_out", "doubled"),
    [
        (counted([1, 2, 3, 4, 5]), True, 0, 0),
        (counted([1, 2, 4, 5]), False, 1, 0),
        (counted([1, 2, 3]), False, 2, 0),
        (counted([1, 2, 2, 3, 4, 5]), False, 0, 1),
        (counted([1, 2, 3, 4, 5, 6]), False, 0, 1),
        (counted([2, 1, 3, 4, 5]), False, 0, 0),
        # What was cut lacks its end, and that is all that it lacks.
        (counted([1, 2, 3], error="cut"), False, 0, 0),
        (counted([1, 3], error="cut"), False, 1, 0),
        (counted([], error="refused"), False, 0, 0),
    ],
)
def test_a_number_that_is_lost_or_doubled_shows(
    made: Count, *, is_whole: bool, left_out: int, doubled: int
) -> None:
    assert (made.is_whole, made.left_out, made.doubled) == (is_whole, left_out, doubled)


def test_faults_are_chosen_by_their_names() -> None:
    first, second, *_ = FAULTS
    assert chosen("") == FAULTS
    assert chosen(f" {second.name}, {first.name},") == (second, first)
    with pytest.raises(ValueError, match=r"no flood; there are llama-killed-idle, "):
        chosen("flood")


def test_each_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


FAULT = Fault(name="x", does="nothing", strike=lambda _: nullcontext())


def test_what_was_lost_is_told_apart_from_what_was_broken_and_from_what_a_fault_ends() -> None:
    told = [
        counted([1, 2, 3, 4, 5]),
        counted([1, 3], error="cut"),
        Count(last=5, stream=True, status=502, error="rig_failed"),
        Count(last=5, stream=False, error="refused"),
        counted([1, 2, 2, 3, 4, 5]),
    ]
    share = Share.of(told, FAULT)
    assert share == Share(answers=1, lost=2, broken=2, ended=0, left_out=1, doubled=1)
    ended = Share.of(told, replace(FAULT, ends="all of them"))
    assert ended == Share(answers=1, lost=0, broken=0, ended=4, left_out=1, doubled=1)


def test_each_client_asks_for_streams_and_for_whole_answers() -> None:
    with socket.socket() as refuses:
        refuses.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{refuses.getsockname()[1]}"
        clients = {name: ClientDoor(url=url, key=name) for name in ("one", "other")}
        wanted = set(itertools.product(clients, (True, False)))
        with Load(clients, streams=4, whole=2, numbers=1, pause_s=0) as load:
            deadline = time.monotonic() + 60
            while {(made.client, made.stream) for made in load.told} != wanted:
                assert time.monotonic() < deadline, load.told
                time.sleep(0.01)
