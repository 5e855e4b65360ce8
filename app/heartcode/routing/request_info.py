"""What has to be known of a request to choose a backend for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from heartcode.routing.prompt_hash import Prompt

# The gateway says here for whom it asks; without it, all requests are one client's.
CLIENT_HEADER = "X-HeartCode-Client"
# The gateway says here that it has other rigs to ask, see `Overflow`. The refusal is a 403, the one
# status that nginx takes to the next rig without counting it against this one. Or it wants to know
# nothing but what is in the body, see api/read_for_gateway.py.
OVERFLOW_HEADER = "X-HeartCode-Try"
_MAX_CLIENT_CHARS = 128

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
    """

    client: str
    prompt: Prompt
    max_tokens: int | None = None
    overflow: Overflow = Overflow.NEVER
    admitted: bool = False
    queued_s: float = 0.0

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], client: str | None, *, overflow: Overflow = Overflow.NEVER
    ) -> RequestInfo:
        """Return what is known of a request with this JSON body."""
        limits = [fields.get(name) for name in _LIMIT_FIELDS]
        given = [value for value in limits if isinstance(value, int) and value > 0]
        return cls(
            client=(client or "")[:_MAX_CLIENT_CHARS],
            prompt=Prompt.of(fields),
            max_tokens=min(given, default=None),
            overflow=overflow,
        )
