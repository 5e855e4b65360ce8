"""Brings the missing bytes of a file from one source, through cut connections and busy servers."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import requests

from heartcode_models.errors import SourceError
from heartcode_models.files.http import (
    CONNECT_SECONDS,
    PASSING,
    READ_SECONDS,
    auth,
    mirror_refusal,
    new_session,
    refusal,
    retry_after,
    unreachable,
)
from heartcode_models.files.part import PartFile
from heartcode_models.files.progress import Progress
from heartcode_models.gguf.header import MAGIC
from heartcode_models.units import gigabytes

#: In a row, without a byte between them; of a mirror fewer, since the hub can take over.
_TRIES, _TRIES_OF_A_MIRROR = 5, 2
_LONGEST_PAUSE_SECONDS = 60.0
#: What is lost of each connection that is cut: urllib3 gives whole pieces only.
_PIECE = 1 << 16
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Somewhere to have a file from.

    Attributes:
        url: Where it is.
        token: For that host alone; empty means none.
        mirror: Whether it is one of the fleet's own, and no hub.
    """

    url: str
    token: str = ""
    mirror: bool = False

    def refusal(self, response: requests.Response) -> SourceError:
        """What an answer that is none means here."""
        return mirror_refusal(response) if self.mirror else refusal(response, self.token)


class _CutError(Exception):
    """An attempt has failed, and the next one may not."""

    def __init__(self, why: SourceError, pause: float | None = None) -> None:
        super().__init__(str(why))
        self.why, self.pause = why, pause


class Transfer:
    """Fills parts from sources.

    Args:
        progress: Is told how far it is.
        pause: Waits for so many seconds.
    """

    def __init__(self, progress: Progress, pause: Callable[[float], None] = time.sleep) -> None:
        self._progress = progress
        self._pause = pause

    def fill(self, part: PartFile, size: int, source: Source) -> None:
        """Bring what is missing of `size` bytes.

        Raises:
            SourceError: this source cannot give it; what has come stays in the part.
            ModelError: the part cannot be written.
        """
        failures = 0
        tries = _TRIES_OF_A_MIRROR if source.mirror else _TRIES
        with new_session() as session:
            while part.size < size:
                before = part.size
                try:
                    self._attempt(session, part, size, source)
                except _CutError as cut:
                    failures = failures + 1 if part.size <= before else 1
                    if failures >= tries:
                        raise SourceError(f"{cut.why} (tried {failures} times)") from None
                    self._wait(cut, failures)

    def _wait(self, cut: _CutError, failures: int) -> None:
        seconds = cut.pause if cut.pause is not None else float(2 ** (failures - 1))
        if seconds > _LONGEST_PAUSE_SECONDS:
            raise cut.why
        self._progress.say(f"{cut.why}; going on in {seconds:g} s")
        self._pause(seconds)

    def _attempt(
        self, session: requests.Session, part: PartFile, size: int, source: Source
    ) -> None:
        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        try:
            with session.get(
                source.url,
                headers=headers,
                auth=auth(source.token),
                stream=True,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
            ) as response:
                self._judge(response, part, size, source)
                self._take(response, part, size)
        except requests.RequestException as error:
            raise _CutError(unreachable(source.url, error)) from None
        if part.size < size:
            raise _CutError(
                SourceError(
                    f"the connection ended after {gigabytes(part.size)} of {gigabytes(size)}"
                )
            )

    def _judge(
        self, response: requests.Response, part: PartFile, size: int, source: Source
    ) -> None:
        """Look whether the answer goes on where the part ends; one from zero on is as good."""
        if response.status_code in PASSING:
            raise _CutError(source.refusal(response), retry_after(response))
        if response.status_code == _PARTIAL and part.size:
            told = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not told or int(told[1]) != part.size:
                raise SourceError(
                    f"asked for bytes from {part.size} on, the server sends"
                    f" '{response.headers.get('Content-Range', '')}'"
                )
            _refuse_size(told[3], size)
            return
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            told_size = response.headers.get("Content-Range", "").rpartition("/")[2]
            _refuse_size(told_size, size)
        if response.status_code != _OK:
            raise source.refusal(response)
        _refuse_size(response.headers.get("Content-Length", ""), size)
        if part.size:
            self._progress.say("the server cannot resume: starting from zero")
            part.restart()
            self._progress.update(0)

    def _take(self, response: requests.Response, part: PartFile, size: int) -> None:
        for piece in response.iter_content(_PIECE):
            if not part.size and not piece.startswith(MAGIC[: len(piece)]):
                raise SourceError(
                    f"the server sends no GGUF: it begins with {piece[:16]!r}"
                    + (" (a web page)" if piece.lstrip().startswith(b"<") else "")
                )
            if part.size + len(piece) > size:
                raise SourceError(f"the server sends more than the {size} bytes of the file")
            part.write(piece)
            self._progress.update(part.size)


def _refuse_size(told: str, size: int) -> None:
    if told.isdigit() and int(told) != size:
        raise SourceError(f"the server has {told} bytes under this name, the file has {size}")
