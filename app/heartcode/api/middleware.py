"""Paths as people write them: `http://gateway:4000/v1/` and what a client puts behind it.

SillyTavern 1.19.0 asks such an address for `/v1//chat/completions`, and shows it as connected since
it asks for `/v1/models` with more care. Flask's answer to that is a redirect to where the `Host`
header says, which behind a gateway has another port.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_SLASHES = re.compile("/{2,}")


def init_app(app: Flask) -> None:
    """Let `app` take several slashes for one."""
    inner = app.wsgi_app

    def with_single_slashes(
        environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        environ["PATH_INFO"] = _SLASHES.sub("/", environ["PATH_INFO"])
        return inner(environ, start_response)

    app.wsgi_app = with_single_slashes  # type: ignore[method-assign]
