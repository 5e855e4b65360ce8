"""What has to be known of a request to choose a backend for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from heartcode.routing.prompt_hash import Prompt
from heartcode.upstream.identity import Identity

# The gateway says here for whom it asks; without it, all requests are one client's.
CLIENT_HEADER = "X-HeartCode-Client"
# The gateway says here that it has other rigs to ask, see `Overflow`. The refusal is a 403, the one
# status that nginx takes to the next rig without counting it against this one. Or it wants to know
# nothing but what is in the body, see api/read_for_gateway.py.
OVERFLOW_HEADER = "X-HeartCode-Try"
_MAX_CLIENT_CHARS = 128

# Texts of fewer characters are not counted towards what surely does not fit.
_SHORT_CHARS = 4096
# What str.split() takes for white space in ASCII.
_WHITE_SPACE = bytes(code for code in range(128) if chr(code).isspace())
# What a text to be filled in has.
_FILLED_IN = {"input_prefix", "input_suffix"}
# What the endpoints call the longest answer.
_LIMIT_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")


class Overflow(Enum):
    """When a request goes to another rig instead of being served by this one."""

    WHEN_BUSY = "slot"  # it does not wait when no slot is free
    WHEN_FULL = "queue"  # it waits, unless the queue is full
    NEVER = ""  # it has nowhere else to go

    @classmethod
    def of(cls, header: str | None) -> Overflow:
        """Return what the header says; whatever else is in it says nothing."""
        if not header:  # as where nothing but this rig can be asked
            return cls.NEVER
        return next((each for each in cls if each.value == header), cls.NEVER)


@dataclass(kw_only=True)
class RequestInfo:
    """What routing knows of one request, from its arrival to its end.

    Attributes:
        client: whose request it is; clients take turns.
        prompt: what its conversation begins with.
        max_tokens: the longest answer it allows, if it says so.
        overflow: when it goes to another rig.
        admitted: whether it has had a backend before; then it is not turned away.
        queued_s: seconds that it has waited in the queue.
        tokens: how many its prompt has at least, with the answer so far.
        dense_bytes: bytes of its prompt that are no white space, as far as they surely are
            evaluated.
        wanted_tokens: how many it and the rest of its answer will take; None: not known.
        begun_by: what the backend served that its answer has begun with; None before that.
        reads_anew: whether it wants its prompt read, whatever is in the cache (`cache_prompt`).
        restored_tokens: how many of its prompt's tokens a file has brought, see `warm`.
    """

    client: str
    prompt: Prompt
    max_tokens: int | None = None
    overflow: Overflow = Overflow.NEVER
    admitted: bool = False
    queued_s: float = 0.0
    tokens: int = 0
    dense_bytes: int = 0
    wanted_tokens: float | None = None
    begun_by: Identity | None = None
    reads_anew: bool = False
    restored_tokens: int = 0

    @classmethod
    def of(
        cls,
        fields: Mapping[str, Any],
        client: str | None,
        *,
        overflow: Overflow = Overflow.NEVER,
        secret: bytes | None = None,
    ) -> RequestInfo:
        """Return what is known of a request with this JSON body; `secret` as of `Prompt`."""
        limits = [fields.get(name) for name in _LIMIT_FIELDS]
        given = [value for value in limits if isinstance(value, int) and value > 0]
        return cls(
            client=(client or "")[:_MAX_CLIENT_CHARS],
            prompt=Prompt.of(fields, secret=secret),
            max_tokens=min(given, default=None),
            overflow=overflow,
            tokens=_given_tokens(fields),
            # Shorter ones fit everywhere, and counting costs.
            dense_bytes=sum(
                _dense_bytes(text) for text in _sure_texts(fields) if len(text) > _SHORT_CHARS
            ),
            reads_anew=fields.get("cache_prompt") is False,
        )


def _given_tokens(fields: Mapping[str, Any]) -> int:
    """Return the length of a prompt that is given in tokens."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and set(map(type, prompt)) == {int}:
        return len(prompt)
    return 0


def _sure_texts(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a prompt that are evaluated whole, whatever a chat template makes of them.

    A template may leave out what systems and assistants say, but not users. Of a text to be filled
    in llama-server takes what fits.
    """
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if isinstance(messages, list):
        for message in messages:
            if type(message) is dict and message.get("role") == "user":
                content = message.get("content")
                if type(content) is list:
                    yield from _said_in(content)
                elif type(content) is str:
                    yield content
    elif isinstance(prompt, str) and not _FILLED_IN & fields.keys():
        yield prompt


def _said_in(parts: list[Any]) -> Iterator[str]:
    texts = (part.get("text") if type(part) is dict else part for part in parts)
    return (text for text in texts if type(text) is str)


def _dense_bytes(text: str) -> int:
    if text.isascii():
        return len(text.encode().translate(None, _WHITE_SPACE))
    return len("".join(text.split()).encode())
