"""Every request that is passed on to a backend, in one table that feeds routes and checks.

What llama-server has beyond this is left out on purpose: `LEFT_OUT` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from heartcode.fields import Fields

# What endpoints call the longest answer, in the order in which llama-server looks for it.
_LIMITS = ("n_predict", "max_completion_tokens", "max_tokens")


class Kind(Enum):
    """What a backend does for a request."""

    GENERATES = "generates"  # evaluates a prompt and generates text, possibly streamed
    EVALUATES = "evaluates"  # evaluates a prompt in a slot, as for an embedding
    CONVERTS = "converts"  # needs no slot: a tokenizer or a template answers


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A request that is passed on: a POST of a JSON object to `path`.

    Attributes:
        prompt: the field without which there is nothing to work on; "" where llama-server takes
            several, or answers with a 400 itself.
        texts: the fields that make up the prompt.
        limits: the fields that say how long the answer may be.
        aliases: llama-server's own other paths for the same.
    """

    path: str
    kind: Kind
    prompt: str = ""
    texts: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def own(self, fields: Fields) -> Fields:
        """Return `fields` without the texts and limits of other endpoints.

        Client libraries send every field that they know; llama-server ignores these here.
        """
        return fields.without(_TEXTS_AND_LIMITS - {*self.texts, *self.limits})

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths under which a client may ask for it."""
        return (self.path, *self.aliases)


# Source of paths and aliases: llama.cpp, tools/server/server.cpp, at the pinned commit.
ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        path="/v1/chat/completions",
        kind=Kind.GENERATES,
        prompt="messages",
        texts=("tools", "messages"),
        limits=_LIMITS,
        aliases=("/chat/completions",),
    ),
    Endpoint(
        path="/v1/completions",
        kind=Kind.GENERATES,
        prompt="prompt",
        texts=("prompt",),
        limits=_LIMITS,
    ),
    Endpoint(
        path="/v1/responses",
        kind=Kind.GENERATES,
        prompt="input",
        texts=("tools", "instructions", "input"),
        limits=("max_output_tokens", *_LIMITS),
        aliases=("/responses",),
    ),
    Endpoint(
        path="/v1/messages",
        kind=Kind.GENERATES,
        prompt="messages",
        texts=("tools", "system", "messages"),
        limits=("max_tokens",),
    ),
    Endpoint(
        path="/completion",
        kind=Kind.GENERATES,
        prompt="prompt",
        texts=("prompt",),
        limits=_LIMITS,
        aliases=("/completions",),
    ),
    Endpoint(path="/infill", kind=Kind.GENERATES, texts=("prompt",), limits=_LIMITS),
    Endpoint(path="/v1/embeddings", kind=Kind.EVALUATES, texts=("input",)),
    Endpoint(path="/embeddings", kind=Kind.EVALUATES, texts=("input",), aliases=("/embedding",)),
    Endpoint(
        path="/v1/rerank",
        kind=Kind.EVALUATES,
        aliases=("/rerank", "/v1/reranking", "/reranking"),
    ),
    Endpoint(path="/tokenize", kind=Kind.CONVERTS),
    Endpoint(path="/detokenize", kind=Kind.CONVERTS),
    Endpoint(path="/apply-template", kind=Kind.CONVERTS, prompt="messages"),
    Endpoint(
        path="/v1/chat/completions/input_tokens",
        kind=Kind.CONVERTS,
        prompt="messages",
        aliases=("/chat/completions/input_tokens",),
    ),
    Endpoint(
        path="/v1/responses/input_tokens",
        kind=Kind.CONVERTS,
        aliases=("/responses/input_tokens",),
    ),
    Endpoint(path="/v1/messages/count_tokens", kind=Kind.CONVERTS, prompt="messages"),
)

_TEXTS_AND_LIMITS = {name for endpoint in ENDPOINTS for name in (*endpoint.texts, *endpoint.limits)}

# What counts as inference in log and metrics: a GPU works on it.
INFERENCE_PATHS = frozenset(
    path for endpoint in ENDPOINTS if endpoint.kind is not Kind.CONVERTS for path in endpoint.paths
)

_ONE_FOR_ALL = "it changes one llama-server for everybody who uses it"
_OTHER_FILES = "it reads or fetches what is no model, with the rights of the rig"
_ROUTER = "it belongs to llama-server's own router, which runs several models in turns on one host"
_SESSIONS = "it continues a stream by a number that anybody can name, on one of several backends"

#: What the pinned llama-server serves besides, each with the reason why it has no route here.
#: docs/llama-server.md shows it.
LEFT_OUT: dict[str, str] = {
    "GET /metrics": "a rig's exporter tells them, for all backends, on a port of its own",
    "POST /props": _ONE_FOR_ALL,
    "GET /lora-adapters": "there are none: no backend is started with any",
    "POST /lora-adapters": _ONE_FOR_ALL,
    "POST /slots/:id_slot": _ONE_FOR_ALL + ", and restores another conversation into a slot",
    "POST /v1/chat/completions/control": "it reaches one backend, and which one is not known",
    "POST /v1/audio/transcriptions": "no body but JSON is relayed, and no model here hears",
    "POST /audio/transcriptions": "no body but JSON is relayed, and no model here hears",
    "GET /v1/stream": _SESSIONS,
    "DELETE /v1/stream": _SESSIONS,
    "POST /v1/streams/lookup": _SESSIONS,
    "GET /cors-proxy": _OTHER_FILES,
    "POST /cors-proxy": _OTHER_FILES,
    "GET /tools": _OTHER_FILES,
    "POST /tools": _OTHER_FILES,
    "POST /models": _ROUTER,
    "DELETE /models": _ROUTER,
    "POST /models/load": _ROUTER,
    "POST /models/unload": _ROUTER,
    "GET /models/sse": _ROUTER,
}
