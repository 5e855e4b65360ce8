"""The fields of a request's body, each of which is decoded when it is first asked for.

    fields = Fields.of(body)
    fields["model"]
    fields.encoded(stream=True)      # the body again, with another `stream`

A body is checked as a whole and kept as it came: what nobody asks for costs a twentieth of what
Python objects of it would, whatever it is made of (tools/bench_reading.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import msgspec

# Values that are no longer are decoded to see whether they say anything.
_LONGEST_NOTHING = 16

_AS_IT_CAME = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRIES = msgspec.json.Decoder(list[msgspec.Raw])
_decoded = msgspec.json.Decoder().decode


class NoObjectError(ValueError):
    """The body is JSON, or begins as such, but is no object."""


class Fields(Mapping[str, Any]):
    """Fields of a JSON object by their names; of several with one name, the last."""

    def __init__(self, raw: Mapping[str, msgspec.Raw]) -> None:
        self._raw = raw
        self._decoded: dict[str, Any] = {}

    @classmethod
    def of(cls, body: bytes) -> Fields:
        """Return the fields of `body`, which is UTF-8.

        Numbers that no double holds pass, and so does what is no UTF-8 in values; each fails when
        it is asked for.

        Raises:
            NoObjectError: for what is no object.
            ValueError: for what is no JSON, as RFC 8259 has it; halves of characters are none.
            RecursionError: for what is nested more deeply than about a thousand levels.
        """
        try:
            return cls(_AS_IT_CAME.decode(body))
        except msgspec.ValidationError as error:
            raise NoObjectError(str(error)) from None

    def __getitem__(self, name: str) -> Any:
        raw = self._raw[name]
        if name not in self._decoded:
            self._decoded[name] = _decoded(raw)
        return self._decoded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def says(self, name: str) -> bool:
        """Return whether a field is there with something else than null, false, 0 or nothing."""
        raw = self._raw.get(name)
        if raw is None:
            return False
        return memoryview(raw).nbytes > _LONGEST_NOTHING or bool(self[name])

    def has_more_than(self, most: int, name: str) -> bool:
        """Return whether a field is a list of more entries than `most`, and decode none of them."""
        raw = bytes(self._raw.get(name, b""))
        # So many entries have commas between them. A text may have as many.
        return raw[:1] == b"[" and raw.count(b",") >= most and len(_ENTRIES.decode(raw)) > most

    def without(self, names: Container[str]) -> Fields:
        """Return the fields but for those of `names`."""
        left = Fields({name: raw for name, raw in self._raw.items() if name not in names})
        left._decoded = self._decoded  # nothing is decoded twice
        return left

    def encoded(self, **changed: Any) -> bytes:
        """Return a body with these fields, as they came but for those that are `changed`."""
        return msgspec.json.encode({**self._raw, **changed})
