"""A hub on this machine that answers as huggingface.co does, and misbehaves when it is told to.

Two servers: the hub knows what a file is and leads to the other, which has the bytes, as a CDN has
them. A HEAD or GET of ``/OWNER/NAME/resolve/REVISION/PATH`` gets a 302 with X-Linked-Etag,
X-Linked-Size and X-Repo-Commit. Both note what they were asked.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Asked:
    """One request: which server, what, and the headers that matter."""

    server: str
    method: str
    path: str
    range: str
    authorization: str


@dataclass
class Behaviour:
    """What the hub does otherwise than it should.

    Attributes:
        statuses: The next answers of the hub, before it works again.
        cdn_statuses: The same of the CDN.
        headers: Headers of those answers.
        cuts: How many bytes the CDN's next answers have, before it hangs up.
        stalls: How many bytes they have before nothing comes any more, until `released` is set.
        token: The one that is asked for; empty for everybody.
        rights: Whether the token may have the file.
        told_size, told_sha256: What the hub says instead of the truth.
        tells: Whether it says anything of the file.
        ranges: Whether the CDN knows Range; ``shifted`` sends other bytes than asked for.
        instead: What the CDN sends instead of the file.
        chunked: The CDN does not say how long its answer is.
        renamed: The hub leads from an old repository's name to the new one first.
    """

    statuses: list[int] = field(default_factory=list)
    cdn_statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    token: str = ""
    rights: bool = True
    told_size: int | None = None
    told_sha256: str | None = None
    tells: bool = True
    ranges: bool | str = True
    instead: bytes | None = None
    chunked: bool = False
    renamed: dict[str, str] = field(default_factory=dict)


class ModelHub:
    """Hub and CDN; use it as a context.

    Args:
        files: Content by ``OWNER/NAME/PATH``.
        address: Where both listen.
        cdn_name: The CDN's host in redirects: another one than the hub's, as in life.
    """

    def __init__(
        self, files: dict[str, bytes], address: str = "127.0.0.1", cdn_name: str = "localhost"
    ) -> None:
        self.files = files
        self.commit = COMMIT
        self.does = Behaviour()
        self.asked: list[Asked] = []
        self._hub = _Server(address, _HubHandler, self)
        self._cdn = _Server(address, _CdnHandler, self)
        self.url = f"http://{address}:{self._hub.server_address[1]}"
        self.cdn = f"http://{cdn_name}:{self._cdn.server_address[1]}"

    def __enter__(self) -> Self:
        for server in (self._hub, self._cdn):
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.does.released.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def to(self, server: str) -> list[Asked]:
        """What one of the two (``hub``, ``cdn``) was asked."""
        return [asked for asked in self.asked if asked.server == server]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, handler: type["_Handler"], hub: ModelHub) -> None:
        self.hub = hub
        super().__init__((address, 0), handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has seen enough hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    name: str

    def do_GET(self) -> None:
        hub = self.server.hub
        hub.asked.append(
            Asked(
                self.name,
                self.command,
                self.path,
                self.headers["Range"] or "",
                self.headers["Authorization"] or "",
            )
        )
        statuses = hub.does.statuses if self.name == "hub" else hub.does.cdn_statuses
        if statuses:
            self.answer(statuses.pop(0), hub.does.headers)
        else:
            self.serve(hub)

    def do_HEAD(self) -> None:
        self.do_GET()

    def serve(self, hub: ModelHub) -> None:
        raise NotImplementedError

    def answer(self, status: int, headers: dict[str, str], body: Iterable[bytes] = ()) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            for piece in body:
                self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        """Silent."""


class _HubHandler(_Handler):
    name = "hub"

    def serve(self, hub: ModelHub) -> None:
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        if new := hub.does.renamed.get(repository):
            self.answer(307, {"Location": f"/{new}/resolve/{rest}"})
            return
        revision, _, path = rest.partition("/")
        content = hub.files.get(f"{repository}/{path}")
        if hub.does.token and self.headers["Authorization"] != f"Bearer {hub.does.token}":
            self.answer(401, {})
        elif not hub.does.rights:
            self.answer(403, {})
        elif content is None or revision not in ("main", hub.commit):
            self.answer(404, {})
        else:
            self.answer(302, {"Location": f"{hub.cdn}/{repository}/{path}"} | self.facts(content))

    def facts(self, content: bytes) -> dict[str, str]:
        does = self.server.hub.does
        if not does.tells:
            return {}
        sha256 = does.told_sha256 or hashlib.sha256(content).hexdigest()
        size = len(content) if does.told_size is None else does.told_size
        return {
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(size),
            "X-Repo-Commit": self.server.hub.commit,
        }


class _CdnHandler(_Handler):
    name = "cdn"

    def serve(self, hub: ModelHub) -> None:
        content = hub.does.instead
        if content is None:
            content = hub.files[self.path.strip("/")]
        first, end, status, headers = 0, len(content), 200, {}
        asked = self.headers["Range"]
        if asked and hub.does.ranges:
            begin, _, last = asked.removeprefix("bytes=").partition("-")
            first = int(begin)
            end = min(end, int(last) + 1) if last else end
            if first >= len(content):
                self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            told = first + 7 if hub.does.ranges == "shifted" else first
            status = 206
            headers["Content-Range"] = f"bytes {told}-{end - 1}/{len(content)}"
        body = content[first:end]
        headers["Content-Length"] = "" if hub.does.chunked else str(len(body))
        if hub.does.chunked:
            self.close_connection = True
        if hub.does.cuts:
            body = body[: hub.does.cuts.pop(0)]
            self.close_connection = True
        self.answer(status, headers, self.pieces(body))

    def pieces(self, body: bytes) -> Iterator[bytes]:
        does = self.server.hub.does
        if does.stalls:
            size = does.stalls.pop(0)
            yield body[:size]
            does.released.wait(60)
            body = body[size:]
        yield body
