"""Streams whose rig is lost as only whole hosts can be: its power, its cable, a reboot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.counting import chat, count_to, events, text_of
from tests.fleet.harness import Fleet, wait_for

STREAMS, LAST = 8, 3000


class Reader:
    """A client that reads a stream in a thread.

    Attributes:
        text: what has come so far.
        error: what has ended it, if it was not the end of the answer.
    """

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.text = ""
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(fleet, number))
        self._thread.start()

    def _read(self, fleet: Fleet, number: int) -> None:
        headers = fleet.authorization | {"X-Session-Id": f"outliving {number} {time.time_ns()}"}
        try:
            with chat(fleet, max_tokens=LAST, stream=True, headers=headers) as answer:
                for event in events(answer):
                    self.text += text_of(event)
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = error

    def finish(self) -> None:
        self._thread.join(300)
        assert not self._thread.is_alive()


@contextmanager
def lost(fleet: Fleet, rig: str, how: str) -> Iterator[None]:
    """A rig that is lost in one way, and back at the end."""
    undo: Callable[[], None]
    if how == "power":
        fleet.tool("stop", rig)
        undo = lambda: fleet.tool("start", rig)  # noqa: E731
    elif how == "cable":
        fleet.tool("cut", rig)
        undo = lambda: fleet.tool("restore", rig)  # noqa: E731
    else:
        fleet.ssh(rig, "systemctl kill --signal=KILL heartcode.service")
        undo = lambda: None  # noqa: E731
    try:
        yield
    finally:
        undo()
        wait_for(lambda: fleet.state(rig, "heartcode.service") == "active", f"{rig} is back", 120)


@pytest.mark.usefixtures("disturbs")
@pytest.mark.parametrize("how", ["power", "cable", "kill -9"])
def test_eight_streams_over_two_rigs_outlive_one(fleet: Fleet, how: str) -> None:
    since = fleet.cursor("gateway")
    streams = [Reader(fleet, number) for number in range(STREAMS)]
    with ExitStack() as until_the_end:
        try:
            wait_for(
                lambda: sum(len(stream.text) > 10 for stream in streams) >= STREAMS // 2,
                "streams have begun",
            )
            rig = fleet.signal_working("CONT")
            assert rig is not None, "one works on a stream"
            until_the_end.enter_context(lost(fleet, rig[0], how))
        finally:
            for stream in streams:
                stream.finish()
    assert [stream.error for stream in streams] == [None] * STREAMS
    assert [stream.text.split() for stream in streams] == [count_to(LAST)] * STREAMS
    wait_for(
        lambda: '"resumes": 1' in fleet.journal("gateway", since, "--unit=heartcode-relay"),
        "the relay tells that another rig went on with one",
    )
