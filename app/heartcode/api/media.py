"""Pictures, sounds and films in a request, and which backends take them.

llama-server answers what its model cannot take with a 500, and only after it was asked; so every
client library would ask again, and so would the proxy at another backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from heartcode.errors import ApiError
from heartcode.routing.backend import Backend

# A part's type, as chats, responses and messages have it: what of /props' `modalities` it needs.
_MODALITIES = {
    "image": "vision",
    "image_url": "vision",
    "input_image": "vision",
    "input_audio": "audio",
    "input_video": "video",
    "video_url": "video",
}
_NAMES = {"vision": "pictures", "audio": "sound", "video": "films"}
# llama-server's own prompts: what is in these bytes only the model finds out.
_DATA = "multimodal_data"
_ANY = frozenset(_NAMES)


def taking(
    backends: Sequence[Backend], fields: Mapping[str, Any], *, model: str
) -> Sequence[Backend]:
    """Return those of `backends` that take what is in the request besides text.

    One that has not told yet what it takes may take it.

    Raises:
        ApiError: 400 when none does, with the field's name as `param`.
    """
    for name, needed in _needs(fields):
        backends = [backend for backend in backends if _may_take(backend, needed)]
        if not backends:
            what = " or ".join(sorted(_NAMES[kind] for kind in needed))
            which = f"the model {model!r}" if model else "this model"
            message = f"{name}: {which} takes text, but no {what}"
            raise ApiError(400, message, code="unsupported_content", param=name)
    return backends


def _may_take(backend: Backend, needed: Iterable[str]) -> bool:
    told = backend.served.identity
    return told is None or any(told.modalities.get(kind, True) for kind in needed)


def _needs(fields: Mapping[str, Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the field, and the modalities one of which it needs, for each kind that is no text."""
    for name in ("messages", "input"):
        for kind in sorted(_kinds(fields.get(name)) & _MODALITIES.keys()):
            yield name, frozenset({_MODALITIES[kind]})
    for name in ("prompt", "content", "input"):
        value = fields.get(name)
        prompts = value if isinstance(value, list) else [value]
        # Most are long lists of tokens, and nothing else is seen as fast.
        if dict in map(type, prompts) and any(type(p) is dict and _DATA in p for p in prompts):
            yield name, _ANY


def _kinds(entries: object) -> set[str]:
    """Return the types of what is in a list of entries, and in that: a tool's result has parts."""
    kinds: set[str] = set()
    parts = _parts(entries) if isinstance(entries, list) else []
    while parts:
        kinds.update(kind for part in parts if type(kind := part.get("type")) is str)
        parts = _parts(parts)
    return kinds


def _parts(entries: Iterable[Any]) -> list[dict[str, Any]]:
    """Return all parts of all entries."""
    parts: list[Any] = []
    for entry in entries:
        if type(entry) is dict:
            if type(content := entry.get("content")) is list:
                parts += content
            if type(output := entry.get("output")) is list:
                parts += output
    return [part for part in parts if type(part) is dict]
