"""Which backends have room for a request: whose context holds its prompt and its answer.

    fitting = able(backends, info)       # those that can serve it, as far as is known for sure
    closest = of_its_file(fitting, info) # those of them that have what its answer began with
    best = roomy(closest, tokens)        # those of them that probably hold all of it

A prompt fits when llama-server has a token left to generate. How many tokens a text has only
llama-server knows, but not fewer than

    bytes that are no white space ÷ bytes of the vocabulary's longest token

since each token stands for a piece of the text, and none is left out where the vocabulary has all
bytes (`heartcode-model token-bytes` says 0 where that is not sure). White space does not count, as
a chat template trims it and some tokens swallow what is around them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from heartcode.errors import ApiError
from heartcode.routing.backend import Backend
from heartcode.routing.request_info import RequestInfo
from heartcode.upstream.identity import Identity

#: llama-server's name for it.
TOO_LONG = "exceed_context_size_error"


def able(backends: Iterable[Backend], info: RequestInfo | None) -> list[Backend]:
    """Return the backends that may serve a request; those of which nothing is known are among them.

    Left out are those that serve another model, also another one of that name than an answer has
    begun with, and those whose context does not hold what there is of it.
    """
    if info is None or (info.begun_by is None and not (info.tokens or info.dense_bytes)):
        # As most are: nothing of it could be too long, or has begun elsewhere.
        return [backend for backend in backends if not backend.served.is_other]
    return [
        backend
        for backend in backends
        if not backend.served.is_other
        and _can_go_on(backend, info)
        and not is_too_small(backend, info)
    ]


def going_on(backends: Iterable[Backend], begun: Identity) -> tuple[Backend, ...]:
    """Return the backends that may go on with what a backend of another rig has begun.

    That are those with its file, or else with another quantisation of its model. What has not said
    yet what it serves is among them, and is asked before it goes on.
    """
    known = [(b, b.served.identity) for b in backends if not b.served.is_other]
    same = tuple(b for b, mine in known if mine is None or mine.has_weights_of(begun))
    if same:
        return same
    return tuple(b for b, mine in known if mine and mine.is_other_quantisation_of(begun))


def of_its_file(backends: Sequence[Backend], info: RequestInfo) -> Sequence[Backend]:
    """Return those that have the file that an answer has begun with, or all if none of them works.

    Another quantisation of the model goes on with an answer where that one cannot.
    """
    begun = info.begun_by
    found = [
        backend
        for backend in backends
        if begun is None
        or backend.served.identity is None
        or backend.served.identity.has_weights_of(begun)
    ]
    return backends if all(backend.avoided for backend in found) else found


def roomy(backends: Sequence[Backend], tokens: float) -> Sequence[Backend]:
    """Return those whose context holds so many tokens, or is the largest if none does.

    What works comes first: a smaller one may do, one that has failed a moment ago will not.
    """
    contexts = [backend.served.n_ctx or math.inf for backend in backends]
    wanted = min(tokens, max(contexts, default=0))
    found = [b for b, n_ctx in zip(backends, contexts, strict=True) if n_ctx >= wanted]
    return backends if all(backend.avoided for backend in found) else found


def refuse_what_fits_nowhere(backends: Sequence[Backend], info: RequestInfo) -> None:
    """Raise the error for a prompt that no backend's context can hold, whatever state it is in.

    llama-server would read all of it first, which can take minutes that nothing ends.

    Raises:
        ApiError: 400, as llama-server refuses it.
    """
    if backends and all(is_too_small(backend, info) for backend in backends):
        n_ctx = max(backend.served.n_ctx for backend in backends)
        tokens = min(_least_tokens(backend, info) for backend in backends)
        message = (
            f"request (at least {tokens} tokens) exceeds the available context size"
            f" ({n_ctx} tokens), try increasing it"
        )
        raise ApiError(400, message, code=TOO_LONG)


def is_too_small(backend: Backend, info: RequestInfo) -> bool:
    """Return whether the backend's context surely does not hold a request."""
    return 0 < backend.served.n_ctx <= _least_tokens(backend, info)


def _least_tokens(backend: Backend, info: RequestInfo) -> int:
    longest = backend.served.token_bytes
    return max(info.tokens, math.ceil(info.dense_bytes / longest) if longest else 0)


def _can_go_on(backend: Backend, info: RequestInfo) -> bool:
    begun, identity = info.begun_by, backend.served.identity
    if begun is None or identity is None:
        return True
    return identity.has_weights_of(begun) or identity.is_other_quantisation_of(begun)
