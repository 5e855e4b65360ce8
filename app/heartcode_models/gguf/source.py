"""Where a GGUF's first bytes come from: a file, or a server that is asked for no more."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from heartcode_models.errors import ModelError

if TYPE_CHECKING:
    from requests import PreparedRequest

_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_PARTIAL, _OK, _RANGE_NOT_SATISFIABLE = 206, 200, 416


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


class Source(Protocol):
    """Bytes from the beginning on.

    Attributes:
        name: For messages.
        size: Bytes of the whole file, None where the server does not say.
    """

    name: str
    size: int | None

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end of the file."""


class FileSource:
    """A file on this machine."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.name = str(path)
        self.size: int | None = path.stat().st_size
        self._file = file

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self._file.read(count)


class HttpSource:
    """A file on a server.

    Each piece is asked for with a Range request. A server that answers with the whole file (200) is
    read from as far as is needed, and then the connection is closed. A token goes to that server,
    and not where it redirects to.
    """

    def __init__(self, url: str, token: str = "") -> None:
        import requests  # noqa: PLC0415 (planning for built-in models works without it)

        self.name = url
        self.size: int | None = None
        self._position = 0
        self._session = requests.Session()
        self._whole: _Readable | None = None
        self._failure = requests.RequestException
        self._token = token

    def close(self) -> None:
        """End the connection, also amid a file of gigabytes."""
        self._session.close()

    def read(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            ModelError: the server cannot be reached, says no or sends what it was not asked for.
        """
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 (comes with requests)

        try:
            data = self._whole.read(count) if self._whole else self._ask(count)
        except (self._failure, HTTPError, OSError) as error:
            raise ModelError(f"{self.name}: cannot be read: {error}") from None
        self._position += len(data)
        return data

    def _ask(self, count: int) -> bytes:
        last = self._position + count - 1
        response = self._session.get(
            self.name,
            headers={
                "Range": f"bytes={self._position}-{last}",
                "Accept-Encoding": "identity",
            },
            # As a header alone it would lose against a password in ~/.netrc.
            auth=self._authorised if self._token else None,
            stream=True,
            timeout=(_CONNECT_SECONDS, _READ_SECONDS),
        )
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            response.close()
            return b""
        if response.status_code == _PARTIAL:
            with response:
                self._take_range(response.headers.get("Content-Range", ""))
                # Not .content: a broken server may send more than it was asked for.
                return _read_all(response.raw, count)
        if response.status_code == _OK and self._position == 0:
            length = response.headers.get("Content-Length", "")
            self.size = int(length) if length.isdigit() else None
            self._whole = response.raw
            return _read_all(response.raw, count)
        response.close()
        raise ModelError(
            f"{self.name}: the server answers {response.status_code} {response.reason}"
        )

    def _authorised(self, request: "PreparedRequest") -> "PreparedRequest":
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _take_range(self, content_range: str) -> None:
        span, _, size = content_range.removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        if not first.isdigit() or int(first) != self._position:
            raise ModelError(
                f"{self.name}: asked for bytes from {self._position} on, the server sends"
                f" '{content_range}'"
            )
        self.size = int(size) if size.isdigit() else None


def _read_all(stream: _Readable, count: int) -> bytes:
    parts = []
    while count > 0 and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@contextmanager
def opened(where: str, token: str = "") -> Iterator[Source]:
    """The source behind a path or an http(s) URL, for which a token may be needed.

    Raises:
        ModelError: it cannot be opened.
    """
    if where.startswith(("http://", "https://")):
        try:
            source = HttpSource(where, token)
        except ImportError:
            raise ModelError(
                f"{where}: reading from a server needs the package requests: run `make bootstrap`"
                " and .venv/bin/python scripts/plan.py"
            ) from None
        try:
            yield source
        finally:
            source.close()
        return
    path = Path(where)
    try:
        file = path.open("rb")
    except OSError as error:
        raise ModelError(f"{where}: cannot be read: {error.strerror}") from None
    with file:
        yield FileSource(path, file)
