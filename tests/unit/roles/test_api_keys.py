"""What is said of bad API keys in the inventory, and what nginx is told of good ones."""

import datetime
from hashlib import sha256
from typing import Any

import pytest

from roles.gateway.filter_plugins.api_keys import clients, faults

KEY, OTHER = "k" * 20, "o" * 30
MODELS = [{"id": "a", "aliases": ["b"]}, {"id": "c", "aliases": []}]
NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": ""}, "API key number 1 needs a name"),
        ({"name": None}, "number 1 needs a name"),
        ({"name": "x" * 41}, "number 1 needs a name"),
        ({"name": 'a";}'}, "number 1 needs a name"),
        ({"name": "10.0.0.1"}, "number 1 needs a name"),
        ({"key": "k" * 19}, "API key anna cannot be used: a key has 20 to 256"),
        ({"key": "k" * 257}, "cannot be used"),
        ({"key": "k" * 20 + " "}, "cannot be used"),
        ({"key": "k" * 20 + "\n"}, "cannot be used"),
        ({"key": "ü" * 20}, "cannot be used"),
        ({"key": 12345678901234567890}, "cannot be used"),
        ({"key": ""}, "needs either a key or, instead, its sha256"),
        ({"sha256": "0" * 64}, "needs either a key or"),
        ({"key": None, "sha256": "0" * 63}, "has a bad sha256; it is 64"),
        ({"key": None, "sha256": sha256(b"").hexdigest()}, "has a bad sha256"),
        ({"requests_per_minute": 0}, "bad requests_per_minute; give a whole number from 1"),
        ({"requests_per_minute": 1.5}, "bad requests_per_minute"),
        ({"parallel": -1}, "bad parallel"),
        ({"parallel": "many"}, "bad parallel"),
        ({"parallel": True}, "bad parallel"),
        ({"expires": "soon"}, "has a bad expires; write a day (2027-01-31)"),
        ({"expires": "2027-02-30"}, "bad expires"),
        ({"expires": "2027-01-31T18:00:00"}, "bad expires"),
        ({"models": []}, "needs a list of names in models"),
        ({"models": "a"}, "needs a list of names in models"),
        ({"models": ["a", "z"]}, "allows models that do not exist (z); there are a, b, c"),
        ({"rate": 5}, "has unknown fields (rate); there are name, key, sha256,"),
    ],
)
def test_a_fault_is_told_with_its_remedy_and_without_the_key(
    fields: dict[str, Any], told: str
) -> None:
    entry = {"name": "anna", "key": KEY} | fields
    (sentence,) = faults([entry], NAMES)
    assert told in sentence
    assert not entry["key"] or str(entry["key"]) not in sentence


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"key": None, "sha256": "0" * 64},
        {"key": "k" * 256},
        {"key": "AZaz09._~+/-AZaz09._~=="},
        {"requests_per_minute": 1, "parallel": "4"},
        {"models": ["b", "c"]},
        {"expires": "2027-01-31"},
        {"expires": datetime.date(2027, 1, 31)},
        {"expires": datetime.datetime(2027, 1, 31, 18, tzinfo=datetime.UTC)},
    ],
)
def test_what_can_be_used_has_no_fault(fields: dict[str, Any]) -> None:
    assert faults([{"name": "anna", "key": KEY} | fields], NAMES) == []


def test_doubles_are_told_by_name() -> None:
    entries = [
        {"name": "anna", "key": KEY},
        {"name": "bea", "sha256": sha256(KEY.encode()).hexdigest()},
        {"name": "anna", "key": OTHER},
    ]
    assert faults(entries, NAMES) == [
        "Two API keys are called anna; give each a name of its own.",
        "The API keys anna and bea are the same; give each client its own.",
    ]


def test_of_a_client_the_gateway_knows_limits_and_hash_but_not_the_key() -> None:
    (client,) = clients(
        [
            {
                "name": "anna",
                "key": KEY,
                "requests_per_minute": "60",
                "models": ["b", "a"],
                "expires": "2027-01-31",
            }
        ],
        MODELS,
    )
    assert client == {
        "name": "anna",
        "sha256": sha256(KEY.encode()).hexdigest(),
        "requests_per_minute": 60,
        "parallel": None,
        "models": ["a"],
        "expires": round(datetime.datetime(2027, 2, 1, tzinfo=datetime.UTC).timestamp() * 1000),
        "expired_on": "2027-01-31",
    }
