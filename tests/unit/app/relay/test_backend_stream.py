"""Tokens on their way through the event loop, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest.mock import patch

import pytest
from heartcode.client import Client
from heartcode.relay.backend_stream import BackendStream
from heartcode.relay.fast_path import ClientWriter, Signs
from heartcode.relay.sse import PING, without_comments
from heartcode.routing.backend import Backend
from heartcode.routing.lease import Lease
from heartcode.upstream.exchange import BackendError, Exchange, Reason, UpstreamRequest
from httptools import HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"8\r\ndata: 0\n\r\n1\r\n\n\r\n"
)
FIRST = b"data: 0\n\n"
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"code":500,"message":"Compute error.","type":"server_error"}}\n\n'
END = b"0\r\n\r\n"
# llama-server's, and one that says something.
COMMENTS = (b":\n\n", b": still here\n\n")
# On both sides of another digit of a chunk's size, and of what is told without a parser. All of
# them together fit into one read.
LENGTHS = (0, 1, 7, 8, 9, 247, 248, 249, 1015, 1016, 1017)


def event(length: int) -> bytes:
    return b"data: " + b"x" * length + b"\n\n"


def as_chunk(data: bytes, style: str) -> bytes:
    return f"{len(data):{style}}\r\n".encode() + data + b"\r\n"


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream, and the pieces in which its chunks arrive."""
    some = st.one_of(st.sampled_from(LENGTHS).map(event), st.sampled_from(COMMENTS))
    events = draw(st.lists(some, min_size=1, max_size=5))
    stream = b"".join(events)
    ends = [sum(map(len, events[:number])) for number in range(1, len(events))]
    more = draw(st.lists(st.integers(1, len(stream) - 1), max_size=2))
    borders = sorted({*draw(st.sampled_from([ends, []])), *more})
    chunks = [
        as_chunk(stream[start:end], draw(st.sampled_from(["x", "x", "X", "04x"])))
        for start, end in zip([0, *borders], [*borders, len(stream)], strict=True)
    ]
    pieces: list[bytes] = []
    for chunk in chunks:
        cut = draw(st.sampled_from([0, 0, 0, 1, 3, len(chunk) - 1]))
        pieces += [part for part in (chunk[:cut], chunk[cut:]) if part]
        if len(pieces) > 1 and draw(st.integers(0, 3)) == 0:
            pieces[-2:] = [pieces[-2] + pieces[-1]]
    return stream, pieces


@contextmanager
def events_of(
    pieces: list[bytes],
    on_comment: Callable[[bytes], None] | None = None,
    *,
    has_choices: bool = False,
) -> Iterator[BackendStream]:
    """A backend's events that are read in these pieces: such a socket keeps them apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as held:
        held.enter_context(theirs)
        exchange = held.enter_context(Exchange("127.0.0.1", 1))
        for piece in (HEAD, *pieces):
            theirs.sendall(piece)
        theirs.shutdown(socket.SHUT_WR)
        with patch("heartcode.upstream.exchange._connect", return_value=ours):
            request = UpstreamRequest(method="POST", path="/completion", body=b"{}")
            exchange.send(request, connect_timeout_s=1, silence_timeout_s=60)
        lease = held.enter_context(Lease(Backend("http://127.0.0.1:1")))
        events = BackendStream(
            exchange,
            lease,
            token_silence_s=60,
            hides_progress=False,
            has_choices=has_choices,
            on_comment=on_comment,
        )
        events.wait_for_first()
        assert events.read() == FIRST
        yield events


def what_is_in(chunks: bytes) -> bytes:
    found: list[bytes] = []

    class Body:
        def on_body(self, data: bytes) -> None:
            found.append(data)

    parser = HttpResponseParser(Body())
    parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    return b"".join(found)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@given(bodies())
def test_every_byte_arrives_once_however_it_came(
    version: str, body: tuple[bytes, list[bytes]]
) -> None:
    stream, pieces = body
    times: list[float] = []
    kept: list[bytes] = []
    ours, theirs = socket.socketpair()
    stream += DONE
    with ours, theirs, events_of([*pieces, as_chunk(DONE, "x"), END]) as events:
        ours.settimeout(0)
        writer = ClientWriter(ours, chunked=version == "1.1", stall_s=60)
        goes_on = True
        while goes_on:
            goes_on = events.pour(writer, times.append, kept.append)
            writer.flush(Client())
        ours.close()
        with theirs.makefile("rb") as received:
            written = received.read()
    # A comment goes on only where it came in one chunk behind an event.
    said = without_comments(stream)
    assert without_comments(written if version == "1.0" else what_is_in(written)) == said
    assert without_comments(b"".join(kept)) == said
    assert all(piece.endswith(b"\n\n") and without_comments(piece) for piece in kept)
    assert len(times) == len(kept)


def test_a_stream_that_is_cut_between_two_chunks_is_broken() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, events_of([as_chunk(event(9), "x")]) as events:
        ours.settimeout(0)
        writer = ClientWriter(ours, chunked=True, stall_s=60)
        with pytest.raises(BackendError) as raised:
            events.pour(writer, lambda _: None, lambda _: None)
        assert raised.value.reason is Reason.BROKEN
        assert theirs.recv(1000) == as_chunk(event(9), "x")


@contextmanager
def comments_for_ever(after: bytes) -> Iterator[tuple[socket.socket, Backend]]:
    """A backend that hangs, while its other thread goes on sending comments."""
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def send() -> None:
        theirs.sendall(HEAD + after)
        with suppress(OSError):
            while not over.wait(0.02):
                theirs.sendall(as_chunk(b":\n\n", "x"))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield ours, Backend("http://127.0.0.1:1")
    finally:
        over.set()
        thread.join()
        theirs.close()


@pytest.mark.parametrize("poured", [True, False], ids=["in the event loop", "read"])
def test_comments_are_no_sign_of_life(*, poured: bool) -> None:
    with comments_for_ever(b"") as (sock, backend), ExitStack() as held:
        exchange = held.enter_context(Exchange("127.0.0.1", 1))
        with patch("heartcode.upstream.exchange._connect", return_value=sock):
            request = UpstreamRequest(method="POST", path="/completion", body=b"{}")
            exchange.send(request, connect_timeout_s=1, silence_timeout_s=60)
        lease = held.enter_context(Lease(backend))
        events = BackendStream(exchange, lease, token_silence_s=0.3, hides_progress=False)
        events.wait_for_first()
        assert events.read() == FIRST
        heard = backend.last_heard
        times: list[float] = []
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(0)
            writer = ClientWriter(ours, chunked=True, stall_s=60)
            with pytest.raises(BackendError) as raised:
                _ = events.pour(writer, times.append, print) if poured else events.read()
        assert raised.value.reason is Reason.SILENT
        # Neither a token nor anything that the one who looks after it would take for work.
        assert (times, backend.last_heard) == ([], heard)


@pytest.mark.parametrize("apart", [True, False])
def test_a_rig_s_comments_are_heard_and_go_no_further(*, apart: bool) -> None:
    comment = b": heartcode {}\n\n"
    told = [comment, event(1)] if apart else [comment + event(1)]
    heard: list[bytes] = []
    chunks = [as_chunk(each, "x") for each in (*told, PING, DONE)]
    with events_of([*chunks, END], heard.append) as events:
        assert poured(events) == (event(1) + DONE, None)
    assert heard == [told[0], PING]


def test_who_waits_is_given_signs_while_a_backend_says_nothing() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ExitStack() as held:
        exchange = held.enter_context(Exchange("127.0.0.1", 1))
        theirs.sendall(HEAD)
        with patch("heartcode.upstream.exchange._connect", return_value=ours):
            request = UpstreamRequest(method="POST", path="/completion", body=b"{}")
            exchange.send(request, connect_timeout_s=1, silence_timeout_s=60)
        lease = held.enter_context(Lease(Backend("http://127.0.0.1:1")))
        events = BackendStream(exchange, lease, token_silence_s=0.3, hides_progress=False)
        events.wait_for_first()
        assert events.read() == FIRST
        mine, its = socket.socketpair()
        with mine, its:
            mine.settimeout(0)
            writer = ClientWriter(mine, chunked=False, stall_s=60)
            signs = Signs(every_s=0.02, give=lambda: writer.write_now(PING))
            with pytest.raises(BackendError) as raised:
                events.pour(writer, print, print, signs=signs)
            mine.shutdown(socket.SHUT_WR)
            received = its.makefile("rb").read()
        assert raised.value.reason is Reason.SILENT
        assert received == PING * (len(received) // len(PING)) != b""


def test_a_comment_before_the_first_token_does_not_end_the_patience_for_it() -> None:
    comment, progress = as_chunk(b":\n\n", "x"), as_chunk(b'data: {"prompt_progress":1}\n\n', "x")
    ours, theirs = socket.socketpair()
    with theirs, ExitStack() as held:
        exchange = held.enter_context(Exchange("127.0.0.1", 1))
        head = HEAD.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        theirs.sendall(head + progress + comment + progress + comment)
        with patch("heartcode.upstream.exchange._connect", return_value=ours):
            request = UpstreamRequest(method="POST", path="/completion", body=b"{}")
            exchange.send(request, connect_timeout_s=1, silence_timeout_s=60)
        lease = held.enter_context(Lease(Backend("http://127.0.0.1:1")))
        events = BackendStream(exchange, lease, token_silence_s=0.01, hides_progress=True)
        theirs.sendall(as_chunk(event(9), "x"))
        events.wait_for_first()
        # Nor is progress that nobody asked for shown because of it.
        assert events.read() == event(9)
        assert not events.reads_prompt


def poured(events: BackendStream) -> tuple[bytes, BackendError | None]:
    """Let them go the fast way; return what was written, and what was wrong with the backend."""
    ours, theirs = socket.socketpair()
    error = None
    with ours, theirs:
        ours.settimeout(0)
        writer = ClientWriter(ours, chunked=False, stall_s=60)
        try:
            while events.pour(writer, lambda _: None, lambda _: None):
                writer.flush(Client())
        except BackendError as raised:
            error = raised
        ours.close()
        with theirs.makefile("rb") as received:
            return received.read(), error


def read(events: BackendStream) -> tuple[bytes, BackendError | None]:
    """Read them one after the other, likewise."""
    got = b""
    try:
        while piece := events.read():
            got += piece
    except BackendError as raised:
        return got, raised
    return got, None


@pytest.mark.parametrize("before", [b"", event(9)], ids=["by itself", "behind a token"])
@pytest.mark.parametrize("take", [poured, read])
def test_an_error_amid_the_stream_is_a_failure(
    before: bytes, take: Callable[[BackendStream], tuple[bytes, BackendError | None]]
) -> None:
    """Though the answer comes to its proper end; and nothing before it is lost."""
    chunks = [as_chunk(event(1), "x"), as_chunk(before + ERROR, "x"), END]
    with events_of(chunks) as events:
        passed_on, error = take(events)
    assert passed_on == event(1) + before
    assert error is not None
    assert error.reason is Reason.BROKEN
    assert "Compute error" in str(error)


@pytest.mark.parametrize(
    "last",
    [
        DONE,
        b'data: {"content":"","stop":true,"timings":{}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    ],
    ids=["completions", "native", "messages", "responses"],
)
def test_a_whole_stream_has_a_last_word(last: bytes) -> None:
    with events_of([as_chunk(event(1), "x"), as_chunk(last, "x"), END]) as events:
        assert poured(events) == (event(1) + last, None)
    with events_of([as_chunk(event(1), "x"), END]) as events:
        passed_on, error = poured(events)
        assert passed_on == event(1)
        assert "without its last event" in str(error)


USAGE = b'data: {"choices":[],"timings":{"prompt_n":3,"predicted_n":2}}\n\n'


@pytest.mark.parametrize(
    ("last", "is_whole"),
    [
        ([USAGE, DONE], True),
        ([USAGE + DONE], True),
        ([USAGE], False),
        ([DONE + b"data: "], False),
        ([DONE + ERROR], False),
        ([b'data: {"choices":[{"text":"it ends with data: [DONE]"}]}\n\n'], False),
    ],
    ids=["done", "in one piece", "no last word", "torn", "an error", "in a text"],
)
@pytest.mark.parametrize("take", [poured, read])
def test_a_stream_whose_answer_is_cut_may_be_whole(
    take: Callable[[BackendStream], tuple[bytes, BackendError | None]],
    last: list[bytes],
    *,
    is_whole: bool,
) -> None:
    """As its last event says; then what it tells of tokens and times is learnt."""
    with (
        patch.object(Lease, "learn", autospec=True) as learn,
        events_of([as_chunk(each, "x") for each in (event(1), *last)]) as events,
    ):
        _, error = take(events)
        assert error is not None
        assert events.conclude() == is_whole
        assert learn.call_count == is_whole
        assert (events.usage is not None) == is_whole


def test_one_of_several_answers_that_is_over_is_not_all_of_them() -> None:
    one = b'data: {"index":0,"content":"","stop":true,"timings":{"predicted_n":2}}\n\n'
    for last, is_whole in ((one, False), (one + DONE, True)):
        with events_of([as_chunk(last, "x")], has_choices=True) as events:
            _, error = read(events)
            assert error is not None
            assert events.conclude() == is_whole
