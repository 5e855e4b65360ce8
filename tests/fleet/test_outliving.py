"""Streams whose rig is lost as only whole hosts can be: its power, its cable, a reboot."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.counting import Count, count
from tests.fleet.harness import Fleet, wait_for

STREAMS, LAST = 8, 3000


class Reader(Count):
    """A client that reads a stream in a thread."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        super().__init__(last=LAST, stream=True)
        text = f"Count for reader {number} of {time.time_ns()}!"
        self._thread = threading.Thread(target=count, args=(fleet, text, self))
        self._thread.start()

    def finish(self) -> None:
        self._thread.join(300)
        assert not self._thread.is_alive()


def assert_another_rig_went_on(fleet: Fleet, streams: list[Reader], since: str) -> None:
    """All of them are whole, and one of them by that; `since` is a cursor of the gateway's."""
    assert [str(stream) for stream in streams if not stream.is_whole] == []
    wait_for(
        lambda: '"resumes": 1' in fleet.journal("gateway", since, "--unit=heartcode-relay"),
        "the relay tells that another rig went on with one",
    )


@contextmanager
def lost(fleet: Fleet, rig: str, how: str) -> Iterator[None]:
    """A rig that is lost in one way, and back at the end."""
    with ExitStack() as until_the_end:
        if how == "kill -9":
            fleet.ssh(rig, "systemctl kill --signal=KILL heartcode.service")
        else:
            ways = {"power": fleet.without_power, "cable": fleet.without_cable}
            until_the_end.enter_context(ways[how](rig))
        yield
    wait_for(lambda: fleet.state(rig, "heartcode.service") == "active", f"{rig} is back", 120)


@pytest.mark.usefixtures("disturbs")
@pytest.mark.parametrize(
    "how", ["power", *(pytest.param(how, marks=pytest.mark.ci) for how in ("cable", "kill -9"))]
)
def test_eight_streams_over_two_rigs_outlive_one(fleet: Fleet, how: str) -> None:
    since = fleet.cursor("gateway")
    streams = [Reader(fleet, number) for number in range(STREAMS)]
    with ExitStack() as until_the_end:
        try:
            wait_for(
                lambda: sum(len(stream.numbers) > 10 for stream in streams) >= STREAMS // 2,
                "streams have begun",
            )
            rig = fleet.signal_working("CONT")
            assert rig is not None, "one works on a stream"
            until_the_end.enter_context(lost(fleet, rig[0], how))
        finally:
            for stream in streams:
                stream.finish()
    assert_another_rig_went_on(fleet, streams, since)
