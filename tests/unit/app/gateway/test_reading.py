"""What the gateway's relay makes of a body: it refuses none, that is the rig's to do."""

from __future__ import annotations

import pytest
from heartcode.gateway import app
from heartcode.relay.continuation import CHAT, COMPLETIONS

HELLO = b'"messages": [{"role": "user", "content": "Hello"}]'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b'{"stream": true, %s}' % HELLO),
        (COMPLETIONS, b'{"stream": true, "prompt": "x", "a": [1e400, "\xff"]}'),
    ],
)
def test_a_stream_is_kept_where_it_can_be_continued(path: str, body: bytes) -> None:
    is_streamed, transcript = app._read(path, body)
    assert is_streamed
    assert transcript is not None


@pytest.mark.parametrize("path", [CHAT, ""])
def test_and_not_where_it_can_not(path: str) -> None:
    assert app._read(path, b'{"stream": true, "tools": [{}], %s}' % HELLO) == (True, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'["stream"]',
        b'{"stream": false, %s}' % HELLO,
        b'{"stream": 1e400, %s}' % HELLO,
        b'{"stream": true, "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"stream": true, "messages": [{"role": "user", "content": 1e400}]}',
        b'{"stream": true, "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"stream": true, %s' % HELLO,
    ],
)
def test_what_is_no_request_for_a_stream_goes_on_as_it_is(body: bytes) -> None:
    assert app._read(CHAT, body) == (False, None)
