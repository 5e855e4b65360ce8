"""Every request that is passed on to a backend, in one table that feeds routes and checks.

What llama-server has beyond this is left out on purpose: `POST /props`, `/lora-adapters`, saving
and restoring slots and `/v1/chat/completions/control` change one backend for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a backend does for a request."""

    GENERATES = "generates"  # evaluates a prompt and generates text, possibly streamed
    EVALUATES = "evaluates"  # evaluates a prompt in a slot, as for an embedding
    CONVERTS = "converts"  # needs no slot: a tokenizer or a template answers


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A request that is passed on: a POST of a JSON object to `path`.

    `prompt` is the field without which there is nothing to generate from; "" where llama-server
    takes several. `aliases` are llama-server's own other paths for the same.
    """

    path: str
    kind: Kind
    prompt: str = ""
    aliases: tuple[str, ...] = ()

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
        aliases=("/chat/completions",),
    ),
    Endpoint(path="/v1/completions", kind=Kind.GENERATES, prompt="prompt"),
    Endpoint(path="/v1/responses", kind=Kind.GENERATES, prompt="input", aliases=("/responses",)),
    Endpoint(path="/v1/messages", kind=Kind.GENERATES, prompt="messages"),
    Endpoint(path="/completion", kind=Kind.GENERATES, prompt="prompt", aliases=("/completions",)),
    Endpoint(path="/infill", kind=Kind.GENERATES),
    Endpoint(path="/v1/embeddings", kind=Kind.EVALUATES),
    Endpoint(path="/embeddings", kind=Kind.EVALUATES, aliases=("/embedding",)),
    Endpoint(
        path="/v1/rerank",
        kind=Kind.EVALUATES,
        aliases=("/rerank", "/v1/reranking", "/reranking"),
    ),
    Endpoint(path="/tokenize", kind=Kind.CONVERTS),
    Endpoint(path="/detokenize", kind=Kind.CONVERTS),
    Endpoint(path="/apply-template", kind=Kind.CONVERTS),
    Endpoint(
        path="/v1/chat/completions/input_tokens",
        kind=Kind.CONVERTS,
        aliases=("/chat/completions/input_tokens",),
    ),
    Endpoint(
        path="/v1/responses/input_tokens",
        kind=Kind.CONVERTS,
        aliases=("/responses/input_tokens",),
    ),
    Endpoint(path="/v1/messages/count_tokens", kind=Kind.CONVERTS),
)

# What counts as inference in log and metrics: a GPU works on it.
INFERENCE_PATHS = frozenset(
    path for endpoint in ENDPOINTS if endpoint.kind is not Kind.CONVERTS for path in endpoint.paths
)
