"""The hub: where a file is, and what the hub says that it is."""

import os
from urllib.parse import quote, urljoin, urlsplit

import requests

from heartcode_models.catalogue.entries import HubFile
from heartcode_models.catalogue.lock import SHA256, Pin, is_commit
from heartcode_models.errors import ModelError, SourceError
from heartcode_models.files.http import (
    CONNECT_SECONDS,
    READ_SECONDS,
    auth,
    new_session,
    refusal,
    unreachable,
)

DEFAULT_ENDPOINT = "https://huggingface.co"
_REDIRECTS = 5


class Hub:
    """A server with the interface of huggingface.co.

    Args:
        endpoint: Its base URL; empty means HF_ENDPOINT, else huggingface.co.
        token: Empty means none.

    Raises:
        ModelError: the endpoint is no URL.
    """

    def __init__(self, endpoint: str = "", token: str = "") -> None:
        self.endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")
        self.token = token.strip()
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ModelError(
                f"HF_ENDPOINT is '{self.endpoint}'; write it like {DEFAULT_ENDPOINT}, or unset it"
            )
        if any(character.isspace() or not character.isprintable() for character in self.token):
            raise ModelError("HF_TOKEN holds a space or a control character")

    @classmethod
    def from_environment(cls) -> "Hub":
        """The hub that HF_ENDPOINT and HF_TOKEN mean."""
        return cls(os.environ.get("HF_ENDPOINT", ""), os.environ.get("HF_TOKEN", ""))

    def url(self, file: HubFile, revision: str) -> str:
        """Where a file lies."""
        return (
            f"{self.endpoint}/{file.repository}/resolve/{quote(revision, safe='')}"
            f"/{quote(file.path)}"
        )

    def page(self, file: HubFile) -> str:
        """The repository's page, with its licence."""
        return f"{self.endpoint}/{file.repository}"

    def ask(self, file: HubFile) -> Pin:
        """What the hub says of a file: commit, size and SHA-256.

        Raises:
            SourceError: it cannot be asked, refuses, or does not tell.
        """
        with new_session() as session:
            headers = self._head(session, self.url(file, file.revision)).headers
        sha256 = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
        size = headers.get("X-Linked-Size", "")
        commit = headers.get("X-Repo-Commit", "")
        if not SHA256.fullmatch(sha256) or not size.isdigit() or not int(size):
            raise SourceError(
                f"{self.endpoint} does not tell the SHA-256 and the size of {file.path}"
                " (X-Linked-Etag, X-Linked-Size): it is no file of Git LFS there, or HF_ENDPOINT"
                " is no hub"
            )
        if not is_commit(commit):
            raise SourceError(f"{self.endpoint} does not tell the commit (X-Repo-Commit)")
        return Pin(asked=file.revision, commit=commit, sha256=sha256, size=int(size))

    def _head(self, session: requests.Session, url: str) -> requests.Response:
        """The hub's own answer, before it leads to where the bytes are.

        A renamed repository is a redirect too, within the hub: that one is followed.
        """
        for _ in range(_REDIRECTS):
            try:
                response = session.head(
                    url,
                    auth=auth(self.token),
                    allow_redirects=False,
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                )
            except requests.RequestException as error:
                raise unreachable(url, error) from None
            if not response.is_redirect:
                if not response.ok:
                    raise refusal(response, self.token)
                return response
            target = urljoin(url, response.headers["Location"])
            if "X-Linked-Etag" in response.headers or not _same_place(url, target):
                return response
            url = target
        raise SourceError(f"{self.endpoint} redirects {_REDIRECTS} times and more")


def _same_place(one: str, other: str) -> bool:
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.netloc) == (second.scheme, second.netloc)
