"""HTTP as all downloads use it: the token, certificates, and what went wrong in words."""

import os
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from heartcode_models.errors import SourceError

#: Seconds for a connection, and of silence within an answer.
CONNECT_SECONDS, READ_SECONDS = 10, 60
#: Answers that may be others in a while.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_UNAUTHORISED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 401, 403, 404, 429


class _Token(AuthBase):
    """The hub's token; as an AuthBase it wins over a ~/.netrc.

    requests itself takes it away when a redirect leads to another host.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def new_session() -> requests.Session:
    """A session; proxies and REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE come from the environment."""
    session = requests.Session()
    session.headers["User-Agent"] = "heartcode-models"
    # Compressed on the way, a file could neither be resumed nor counted.
    session.headers["Accept-Encoding"] = "identity"
    if os.environ.get("SSL_CERT_FILE"):  # OpenSSL's own variable, which requests does not know
        session.verify = os.environ["SSL_CERT_FILE"]
    return session


def auth(token: str) -> AuthBase | None:
    """What proves who asks, None without a token."""
    return _Token(token) if token else None


def mirror_refusal(response: requests.Response) -> SourceError:
    """The same of a mirror of the fleet."""
    known = {
        _FORBIDDEN: "it lets in the fleet's own addresses alone (model_mirror_allow)",
        _NOT_FOUND: "it does not hold this file",
    }
    return _refusal(response, known.get(response.status_code, ""))


def refusal(response: requests.Response, token: str) -> SourceError:
    """What an answer that is none means, and what to do."""
    known = {
        _UNAUTHORISED: (
            "the token in HF_TOKEN is not accepted: is it expired, or another hub's?"
            if token
            else "this model is only for people who are known: set HF_TOKEN to a token of yours"
            " (https://huggingface.co/settings/tokens)"
        ),
        _FORBIDDEN: (
            "the account of HF_TOKEN may not have this model: accept its terms on its page, and"
            " give the token read access"
            if token
            else "this model is not for everybody: accept its terms on its page and set HF_TOKEN"
        ),
        _NOT_FOUND: (
            "there is no such file: was it renamed or taken away? Look at the repository's page and"
            " correct the catalogue (a pinned file: scripts/download_model.sh ... --update)"
        ),
        _TOO_MANY: (
            f"too many requests: try again {_later(response)}"
            + ("" if token else "; with HF_TOKEN the limits are higher")
        ),
    }
    status = response.status_code
    return _refusal(response, known.get(status, "try again later" if status in PASSING else ""))


def _refusal(response: requests.Response, advice: str) -> SourceError:
    reason = f"{response.status_code} {response.reason or ''}".rstrip()
    said = f"{_host(response.url)} answers {reason}"
    return SourceError(f"{said}: {advice}" if advice else said)


def unreachable(url: str, error: Exception) -> SourceError:
    """Why there was no answer, or only the beginning of one."""
    host = _host(url)
    if isinstance(error, requests.exceptions.ProxyError):
        return SourceError(
            f"the proxy on the way to {host} does not work: {_cause(error)}. Look at"
            " HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(error, requests.exceptions.SSLError):
        return SourceError(
            f"{host} is not trusted: {_cause(error)}. If your network's proxy signs with its own"
            " CA, name it in REQUESTS_CA_BUNDLE (for the fleet: common_extra_ca_file)"
        )
    if isinstance(error, requests.exceptions.Timeout):
        return SourceError(f"{host} is silent; is the network up?")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return SourceError(f"the connection to {host} was cut")
    return SourceError(f"{host} cannot be reached: {_cause(error)}. Is the network up?")


def retry_after(response: requests.Response) -> float | None:
    """The seconds that a server asks to wait, None where it does not say."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _later(response: requests.Response) -> str:
    seconds = retry_after(response)
    return f"in {seconds:g} s" if seconds else "later"


def _host(url: str | None) -> str:
    """Scheme and host: what follows may hold a signature."""
    parts = urlsplit(url or "")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _cause(error: BaseException) -> str:
    """The innermost reason, without the layers that have wrapped it."""
    inner: object = error
    for _ in range(8):
        reason = getattr(inner, "reason", None)
        nested = [part for part in getattr(inner, "args", ()) if isinstance(part, Exception)]
        if isinstance(reason, Exception):
            inner = reason
        elif nested:
            inner = nested[0]
        else:
            break
    text = getattr(inner, "strerror", None) or str(inner)
    return str(text).rpartition(">: ")[2].rstrip(".") or type(inner).__name__
