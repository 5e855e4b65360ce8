from __future__ import annotations

import json
import re

from heartcode.relay.sse import WholeEvents, data_event
from hypothesis import given
from hypothesis import strategies as st

BETWEEN_EVENTS = re.compile(rb"(^|\n\n|\r\n\r\n)[\r\n]*\Z")


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: 1", b": ping", b"x"])), st.data())
def test_nothing_is_lost_or_torn_however_the_bytes_arrive(
    parts: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=9)))
    events, passed = WholeEvents(), b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        passed += events.feed(stream[start:end])
        assert BETWEEN_EVENTS.search(passed)
        assert stream.startswith(passed)
    held = stream[len(passed) :]
    assert events.torn == held
    assert b"\n\n" not in held
    assert b"\r\n\r\n" not in held
    assert passed == WholeEvents().feed(stream)


def test_an_event_is_one_line_of_json() -> None:
    event = data_event({"error": {"message": "two\nlines"}})
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event.removeprefix(b"data: ")) == {"error": {"message": "two\nlines"}}
