"""How the text of a variable becomes a value.

Each parser raises ValueError with the second half of a sentence, "is not ...".
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `lowest` to `highest`."""

    def parse(text: str) -> int:
        problem = f"is not a whole number from {lowest} to {highest}"
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(highest))):
            raise ValueError(problem)
        if not lowest <= int(text) <= highest:
            raise ValueError(problem)
        return int(text)

    return parse


def seconds(highest: float) -> Callable[[str], float]:
    """Return a parser of seconds, more than 0 and `highest` at most."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value <= highest:  # false for "nan" too
            raise ValueError(f"is not a number of seconds above 0 and up to {highest:g}")
        return value

    return parse


def address(text: str) -> str:
    """Return an IP address."""
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("is not an IP address") from None


def addresses(text: str) -> tuple[str, ...]:
    """Return IP addresses, of which none is named twice."""
    found = tuple(address(part.strip()) for part in text.split(",")) if text else ()
    if len(set(found)) != len(found):
        raise ValueError("names an address twice")
    return found


def names_of_each(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of each entry."""
    entries = text.split(",") if text else ()
    found = tuple(tuple(name.strip() for name in entry.split("|")) for entry in entries)
    if not all(name for names in found for name in names):
        raise ValueError("has an empty name")
    return found


def directory(text: str) -> Path:
    """Return an absolute path."""
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("is not an absolute path")
    return path


def log_level(text: str) -> str:
    """Return the name of a level, in lower case."""
    levels = ("debug", "info", "warning", "error")
    if text.lower() not in levels:
        raise ValueError(f"is not one of {', '.join(levels)}")
    return text.lower()


def _base_url(text: str) -> str:
    problem = f"holds {text!r}, which is not a base URL like http://127.0.0.1:8081"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(problem) from None
    # http alone: backends listen on the loopback interface. No path: the client's is passed on.
    extra = url.username or url.password or url.query or url.fragment or url.path.strip("/")
    if url.scheme != "http" or not url.hostname or not port or extra:
        raise ValueError(problem)
    return text.rstrip("/")


def base_urls(text: str) -> tuple[str, ...]:
    """Return backends, of which none is named twice."""
    urls = tuple(_base_url(part.strip()) for part in text.split(","))
    if len(set(urls)) != len(urls):
        raise ValueError("names a backend twice")
    return urls


def slots(text: str) -> tuple[int, ...]:
    """Return a number of slots, or one for each backend."""
    try:
        return tuple(whole_number(1, 64)(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("is not a list of whole numbers from 1 to 64") from None


def token_bytes(text: str) -> tuple[int, ...]:
    """Return bytes, one number or one for each backend."""
    try:
        return tuple(whole_number(0, 1_000_000)(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("is not a list of whole numbers from 0 to 1000000") from None


def gpu_uuids(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of each backend's cards, of which none is named twice."""
    entries = text.split(",") if text else ()
    found = tuple(tuple(uuid.strip() for uuid in entry.split("+")) for entry in entries)
    uuids = [uuid for cards in found for uuid in cards]
    if not all(uuids):
        raise ValueError("has an empty UUID")
    if len(set(uuids)) != len(uuids):
        raise ValueError("names a card twice")
    return found


def speeds(text: str) -> tuple[float, ...]:
    """Return tokens/s, one number or one for each backend."""
    problem = "is not a list of tokens/s from 0 to 1000000"
    try:
        speeds = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(problem) from None
    if not all(0 <= speed <= 1_000_000 for speed in speeds):  # noqa: PLR2004 - stands in `problem`
        raise ValueError(problem)
    return speeds


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser of one of these names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"is not one of {', '.join(names)}")
        return text

    return parse


def models(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of each model."""
    if not text:
        return ()
    models = tuple(tuple(n.strip() for n in part.split("|")) for part in text.split(","))
    if not all(name for model in models for name in model):
        raise ValueError("has an empty name")
    # Several backends may serve one model; then all of its names are the same.
    names = [name for model in set(models) for name in model]
    if len(set(names)) != len(names):
        raise ValueError("gives a name to two models")
    return models
