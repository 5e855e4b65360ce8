"""What a gateway and its rigs tell each other, so that a stream outlives its rig.

The gateway asks for signs of life in `SIGNS_HEADER`: at least every so many seconds, once the head
of a stream is out, the rig sends something, be it the comment `: ping`; it says so in a header of
the same name. Along with the first token comes another comment, a `Beginning`, which says what the
answer was begun with. When the rig is lost, the gateway tells the next one in `BEGUN_HEADER` what
it takes to go on: a `Begun`.

Neither concerns clients: the gateway passes no comment on and takes none of these headers from
them.

No sockets here: bytes and JSON in, bytes and JSON out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from heartcode.errors import ApiError
from heartcode.relay import sse
from heartcode.routing.request_info import RequestInfo
from heartcode.upstream.identity import Identity

SIGNS_HEADER = "X-HeartCode-Signs"
BEGUN_HEADER = "X-HeartCode-Begun"

_COMMENT = b": heartcode "
_SHORTEST_S, _LONGEST_S = 0.05, 60.0


def signs_wanted(header: str | None) -> float | None:
    """Return how often a gateway wants a sign of life, in seconds; None for who wants none."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if _SHORTEST_S <= seconds <= _LONGEST_S else None


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What an answer was begun with.

    Attributes:
        identity: what its backend serves; None if that is not known.
        opening: what of its text no backend has generated, see `progress.Reading`.
        prompt_tokens: how long its prompt is; 0 if that is not known.
    """

    identity: Identity | None
    opening: str
    prompt_tokens: int

    def comment(self) -> bytes:
        """Return the comment that tells it amid a stream."""
        told = {
            "identity": None if self.identity is None else self.identity.as_json(),
            "opening": self.opening,
            "prompt_tokens": self.prompt_tokens,
        }
        # ASCII without line breaks, as JSON is by default.
        return _COMMENT + json.dumps(told).encode() + sse.EVENT_END

    @classmethod
    def among(cls, events: bytes) -> Beginning | None:
        """Return what one of complete `events` tells, if one does."""
        begin = events.find(_COMMENT)
        if begin < 0 or (begin > 0 and events[begin - 1 : begin] != b"\n"):
            return None
        line = events[begin + len(_COMMENT) :].partition(b"\n")[0]
        try:
            told = json.loads(line)
            identity = told["identity"]
            return cls(
                identity=None if identity is None else Identity.from_json(identity),
                opening=str(told["opening"]),
                prompt_tokens=int(told["prompt_tokens"]),
            )
        except (ValueError, LookupError, TypeError):
            return None  # of another version


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What has to be known of an answer to go on with it, on another card or on another rig.

    Attributes:
        identity: what the backend served that has begun it.
        tokens: how many prompt and answer have by now, at least.
        wanted_tokens: how many they will have; None if that is not known.
    """

    identity: Identity
    tokens: int
    wanted_tokens: float | None

    @classmethod
    def after(
        cls, so_far: int, *, identity: Identity, prompt_tokens: int, max_tokens: int | None
    ) -> Begun:
        """Return it for an answer that has `so_far` tokens, or more: an event can have several."""
        # It would have ended with the context of the backend that it began on.
        wanted = float(identity.n_ctx) or None
        if prompt_tokens and max_tokens is not None:
            rest = float(prompt_tokens + max(max_tokens, so_far + 1))
            wanted = min(rest, wanted or rest)
        return cls(identity=identity, tokens=prompt_tokens + so_far, wanted_tokens=wanted)

    def note_in(self, info: RequestInfo) -> None:
        """Tell routing what can go on with the answer: the same model, and room for it."""
        info.begun_by = self.identity
        info.tokens = max(info.tokens, self.tokens)
        info.wanted_tokens = self.wanted_tokens

    def header(self) -> str:
        """Return the header's value."""
        told = {"identity": self.identity.as_json(), "tokens": self.tokens}
        return json.dumps({**told, "wanted_tokens": self.wanted_tokens})

    @classmethod
    def of(cls, header: str | None) -> Begun | None:
        """Return what the header tells; None without it.

        Raises:
            ApiError: 400 for one that cannot be read: a stream must not go on with just any model.
        """
        if not header:
            return None
        try:
            told: Any = json.loads(header)
            wanted = told["wanted_tokens"]
            return cls(
                identity=Identity.from_json(told["identity"]),
                tokens=int(told["tokens"]),
                wanted_tokens=None if wanted is None else float(wanted),
            )
        except (ValueError, LookupError, TypeError):
            message = f"{BEGUN_HEADER} cannot be read"
            raise ApiError(400, message, code="bad_request") from None
