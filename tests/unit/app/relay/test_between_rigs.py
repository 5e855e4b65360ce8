"""What a gateway and its rigs tell each other of a stream."""

from __future__ import annotations

import pytest
from heartcode.errors import ApiError
from heartcode.relay import sse
from heartcode.relay.between_rigs import Beginning, Begun, signs_wanted
from heartcode.upstream.identity import Identity, Told
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text(max_size=20)
IDENTITIES = st.builds(
    Identity,
    told=st.builds(
        Told,
        names=st.frozensets(NAMES, max_size=3),
        n_ctx=st.integers(1, 2**40),
        ftype=NAMES,
        parameters=st.integers(1, 2**40),
        size=st.integers(1, 2**40),
    ),
    path=NAMES,
    samples=NAMES,
)


@given(st.none() | IDENTITIES, st.text(), st.integers(0, 2**40), st.binary(max_size=20))
def test_a_beginning_is_told_among_other_comments(
    identity: Identity | None, opening: str, tokens: int, other: bytes
) -> None:
    told = Beginning(identity=identity, opening=opening, prompt_tokens=tokens)
    events = told.comment()
    assert sse.without_comments(events + b"data: 1\n\n") == b"data: 1\n\n"
    ignored = b": " + other.replace(b"\n", b"").replace(b"heartcode", b"") + b"\n\n"
    assert Beginning.among(ignored + events + b"data: 1\n\n") == told
    assert Beginning.among(ignored + b"data: 1\n\n") is None


@pytest.mark.parametrize(
    "comment", [b": heartcode", b": heartcode {}", b": heartcode 7", b': heartcode {"identity":7}']
)
def test_what_another_version_tells_is_ignored(comment: bytes) -> None:
    assert Beginning.among(comment + b"\n\n") is None


@given(IDENTITIES, st.integers(0, 2**40), st.none() | st.floats(0, 1e12))
def test_what_is_begun_fits_in_a_header(
    identity: Identity, tokens: int, wanted: float | None
) -> None:
    begun = Begun(identity=identity, tokens=tokens, wanted_tokens=wanted)
    assert begun.header().isascii()
    assert not {"\r", "\n"} & set(begun.header())
    assert Begun.of(begun.header()) == begun


@pytest.mark.parametrize("header", ["{", "7", "{}", '{"identity": {}, "tokens": 1}', "[]"])
def test_a_stream_does_not_go_on_with_what_cannot_be_read(header: str) -> None:
    with pytest.raises(ApiError) as told:
        Begun.of(header)
    assert told.value.status == 400


def test_without_the_header_nothing_was_begun() -> None:
    assert Begun.of(None) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("1", 1.0), ("0.5", 0.5), ("0", None), ("nan", None), ("x", None)],
)
def test_signs_are_given_as_often_as_is_asked(header: str | None, seconds: float | None) -> None:
    assert signs_wanted(header) == seconds
