"""The request with which the next backend goes on with an answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from heartcode.relay.buffered import WholeAnswer
from heartcode.relay.continuation import Continuation, ContinuationError
from heartcode.relay.splice import Splice
from heartcode.upstream.exchange import BackendError, Exchange, Reason, UpstreamRequest


def resumed(
    continuation: Continuation,
    request: UpstreamRequest,
    send: Callable[[UpstreamRequest], Exchange],
) -> tuple[UpstreamRequest, Splice]:
    """Return the request that goes on, and what makes its answer a part of the whole.

    Args:
        continuation: what the next backend has to know.
        request: the client's.
        send: puts a question to that backend, which answers it beside the loop that generates.

    Raises:
        BackendError: when it does not tell what is needed.
    """

    def ask(path: str, fields: Mapping[str, Any]) -> Any:
        body = json.dumps(fields).encode()
        with send(replace(request, path=path, body=body)) as exchange:
            answer = WholeAnswer(exchange)
        if answer.status != HTTPStatus.OK:
            raise BackendError(Reason.ERROR, answer.status)
        return json.loads(answer.body)

    try:
        goes_on = continuation.asked_of(ask)
    except ContinuationError as error:
        raise BackendError(Reason.ERROR, error) from error
    return replace(request, path=goes_on.path, body=goes_on.body), goes_on.splice
