"""Filters for `gateway_api_keys`: what is wrong with it, and what nginx is told of it.

gateway_api_keys | gateway_key_faults(ids_and_aliases)   a list of sentences, empty if all is well
gateway_api_keys | gateway_clients(models)               a client for each key

Neither a sentence nor a client holds a key: clients are known by the SHA-256 of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

Entry = Mapping[str, Any]

_FIELDS = ("name", "key", "sha256", "requests_per_minute", "parallel", "models", "expires")

# It becomes a word in nginx's configuration, a header, a label. nginx's maps take 46 characters
# with their usual bucket size; beginning with a letter, it is never taken for an address.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._@-]{0,39}")
# RFC 6750's b64token: what may stand behind "Bearer". No short ones: a hash does not hide what can
# be guessed.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{20,256}=*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAY, _MOMENT = "%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"
_LIMITS = {"requests_per_minute": 60_000, "parallel": 10_000}


def faults(entries: Sequence[Entry], models: Iterable[str]) -> list[str]:
    """Say what is wrong with the entries, and how to mend it; `models` are the names that exist."""
    known = list(models)
    found = []
    for number, entry in enumerate(entries, 1):
        named = entry.get("name")
        shown = f"{named}" if _is(_NAME, named) else f"number {number}"
        found += [f"The API key {shown} {fault}." for fault in _faults_of(entry, known)]
    return [*found, *_doubles(entries)]


def _faults_of(entry: Entry, models: Sequence[str]) -> Iterator[str]:
    unknown = [str(field) for field in entry if field not in _FIELDS]
    if unknown:
        yield f"has unknown fields ({', '.join(unknown)}); there are {', '.join(_FIELDS)}"
    if not _is(_NAME, entry.get("name")):
        yield (
            "needs a name: a letter first, then up to 39 letters, digits and ._@-"
            " (it stands in logs and metrics)"
        )
    yield from _faults_of_secret(entry)
    for field, most in _LIMITS.items():
        value = entry.get(field)
        if value is not None and not 1 <= _number(value) <= most:
            yield f"has a bad {field}; give a whole number from 1 to {most}, or leave it out"
    if entry.get("expires") is not None and _expiry(entry["expires"]) is None:
        yield "has a bad expires; write a day (2027-01-31) or a time in UTC (2027-01-31T18:00:00Z)"
    allowed = entry.get("models")
    if allowed is not None:
        if not allowed or isinstance(allowed, str):
            yield "needs a list of names in models; leave models out to allow all"
        else:
            missing = [str(name) for name in allowed if name not in models]
            if missing:
                yield f"allows models that do not exist ({', '.join(missing)}); there are " + (
                    ", ".join(models)
                )


def _faults_of_secret(entry: Entry) -> Iterator[str]:
    given = [field for field in ("key", "sha256") if entry.get(field)]
    if len(given) != 1:
        yield "needs either a key or, instead, its sha256"
    elif "key" in given and not _is(_KEY, entry["key"]):
        yield (
            "cannot be used: a key has 20 to 256 letters, digits and ._~+/-"
            " (openssl rand -hex 24 makes one)"
        )
    elif "sha256" in given and (
        not _is(_SHA256, entry["sha256"]) or entry["sha256"] == sha256(b"").hexdigest()
    ):
        yield "has a bad sha256; it is 64 hexadecimal digits, of the key without a newline"


def _doubles(entries: Sequence[Entry]) -> Iterator[str]:
    names = [str(entry.get("name")) for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"Two API keys are called {name}; give each a name of its own."
    by_hash: dict[str, list[str]] = {}
    for name, entry in zip(names, entries, strict=True):
        if entry.get("key") or entry.get("sha256"):
            by_hash.setdefault(_hash(entry), []).append(name)
    for sharing in by_hash.values():
        if len(sharing) > 1:
            yield f"The API keys {' and '.join(sharing)} are the same; give each client its own."


def clients(entries: Sequence[Entry], models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the gateway has to know of each client.

    `models` are the fleet's, with `id` and `aliases`. A client is name, sha256, requests_per_minute
    and parallel (None: no limit), models (their ids, None: all), expires (milliseconds since 1970,
    None: never) and expired_on (for people).
    """
    ids = {name: model["id"] for model in models for name in (model["id"], *model["aliases"])}
    return [
        {
            "name": str(entry["name"]),
            "sha256": _hash(entry),
            **{
                field: _number(entry[field]) if entry.get(field) is not None else None
                for field in _LIMITS
            },
            "models": sorted({ids[name] for name in entry["models"]})
            if entry.get("models")
            else None,
            "expires": _milliseconds(entry.get("expires")),
            "expired_on": str(entry["expires"]) if entry.get("expires") else None,
        }
        for entry in entries
    ]


def _hash(entry: Entry) -> str:
    return str(entry.get("sha256") or sha256(str(entry["key"]).encode()).hexdigest())


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _number(value: object) -> int:
    """The whole number that a value is, 0 if it is none."""
    text = str(value)
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _expiry(value: object) -> datetime | None:
    """When a key ends: behind the day that is given, or at the moment."""
    # YAML makes a datetime of a moment without quotes, and that is written otherwise.
    text = str(value).replace("+00:00", "Z").replace(" ", "T")
    for form, length in ((_DAY, timedelta(days=1)), (_MOMENT, timedelta())):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC) + length
        except ValueError:
            continue
    return None


def _milliseconds(value: object) -> int | None:
    end = _expiry(value) if value else None
    return round(end.timestamp() * 1000) if end else None


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"gateway_key_faults": faults, "gateway_clients": clients}
