"""Flask without what it does for each request and nobody here asks for.

No session, no view that is a coroutine, no URL to be built: what Flask would look for in every
request is known beforehand. All of it is said through what Flask lets an application override.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter, Rule

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# A rig is asked by its gateway, by a handful of names.
_MOST_HOSTS = 64


class _NoSession(SessionInterface):
    """There are no cookies: every request has the same session, which is none."""

    _none = NullSession()

    def open_session(self, _app: Flask, _request: Request) -> NullSession:
        return self._none


class Proxy(Flask):
    """Flask, for endpoints that are asked very often and are found by their path alone."""

    session_interface = _NoSession()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known_hosts: set[str | None] = set()

    @cached_property
    def _fixed_rules(self) -> dict[tuple[str, str], Rule]:
        """The rules without variables, by method and path; all are known when it is first asked."""
        return {
            (method, rule.rule): rule
            for rule in self.url_map.iter_rules()
            if not rule.arguments
            for method in (rule.methods or set()) - {"OPTIONS"}  # of which Flask asks the adapter
        }

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the rule of `request`; None where a dictionary has found it."""
        if request is None:
            return None
        environ = request.environ
        rule = self._fixed_rules.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        host = environ.get("HTTP_HOST")
        if rule is not None and host in self._known_hosts:
            request.url_rule, request.view_args = rule, {}
            return None
        adapter = super().create_url_adapter(request)  # refuses a Host that cannot be one
        if len(self._known_hosts) < _MOST_HOSTS:
            self._known_hosts.add(host)
        return adapter

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return `func`; Flask would look each time whether it is a coroutine."""
        return func


class StreamResponse(Response):
    """The answer that is a stream: what its head says is complete, and it has no length."""

    def __call__(
        self,
        environ: WSGIEnvironment,  # noqa: ARG002 - the head is the same for all
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """Begin to answer, without looking for a length or for where a client should go."""
        start_response(self.status, self.headers.to_wsgi_list())
        return _Closing(self.response, self.close)


class _Closing:
    """A body that the server closes, as PEP 3333 wants it."""

    def __init__(self, body: Iterable[Any], close: Callable[[], None]) -> None:
        self._body = body
        self.close = close

    def __iter__(self) -> Iterator[Any]:
        return iter(self._body)
