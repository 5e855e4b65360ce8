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
    """Yield the field, and the modalities one of which it needs, for each thing but text."""
    for name in ("messages", "input"):
        for entry in _list(fields.get(name)):
            if isinstance(entry, dict):
                for part in _parts(entry):
                    kind = _MODALITIES.get(str(part.get("type")))
                    if kind is not None:
                        yield name, frozenset({kind})
    for name in ("prompt", "content", "input"):
        value = fields.get(name)
        for prompt in value if isinstance(value, list) else [value]:
            if isinstance(prompt, dict) and _DATA in prompt:
                yield name, _ANY


def _parts(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield an entry's parts and those in them: a tool's result may have some of its own."""
    for name in ("content", "output"):
        for part in _list(entry.get(name)):
            if isinstance(part, dict):
                yield part
                yield from _parts(part)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
