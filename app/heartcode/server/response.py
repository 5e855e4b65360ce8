"""The head and body of an answer, as gunicorn writes them but in fewer pieces.

A head goes out together with what follows it: one system call, and one packet, for two.
"""

from __future__ import annotations

import time
from functools import lru_cache

from gunicorn.http import wsgi
from gunicorn.util import http_date

from heartcode.upstream.chunked import LAST, framed
from heartcode.upstream.exchange import send_whole


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return str(http_date(second))


class Response(wsgi.Response):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's response, which sends its head with the first piece of the body."""

    headers_sent: bool

    def default_headers(self) -> list[str]:
        """Return the first lines of the head; the date is worked out once in a second."""
        connection = "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Server: {self.version}\r\n",
            f"Date: {_date(int(time.time()))}\r\n",
            f"Connection: {connection}\r\n",
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines

    def write(self, arg: bytes) -> None:
        """Send a piece of the body, and before it the head if that is not out."""
        is_whole = self.chunked or self.response_length == len(arg)
        if self.headers_sent or self._omits_body or not (arg and is_whole):
            super().write(arg)
            return
        fields = [f"{name}: {value}\r\n" for name, value in self.headers]
        head = "".join([*self.default_headers(), *fields, "\r\n"]).encode("latin-1")
        self.headers_sent = True
        self.sent = len(arg)
        send_whole(self.sock, head + (framed(arg) if self.chunked else arg))

    def close(self) -> None:
        """End the body."""
        if not self.headers_sent:
            self.send_headers()
        if self.chunked:
            send_whole(self.sock, LAST)
