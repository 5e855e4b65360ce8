from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from heartcode import fields as module
from heartcode.fields import Fields, NoObjectError
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON | st.text()), st.sampled_from([None, 2]))
def test_fields_are_what_was_sent(sent: dict[str, Any], indent: int | None) -> None:
    fields = Fields.of(json.dumps(sent, ensure_ascii=indent is None, indent=indent).encode())
    assert fields == sent
    assert list(fields) == list(sent)
    assert json.loads(fields.encoded()) == sent
    for name, value in sent.items():
        assert fields.says(name) == bool(value)


def test_only_what_is_asked_for_is_decoded_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def decode(raw: msgspec.Raw) -> Any:
        decoded.append(bytes(raw))
        return msgspec.json.decode(raw)

    monkeypatch.setattr(module, "_decoded", decode)
    fields = Fields.of(b'{"model": "m", "tools": [{"a": [1, 2, 3, 4, 5, 6]}], "n": 1}')
    assert "tools" in fields
    assert fields.says("tools")
    assert not fields.says("stream")
    left = fields.without({"n"})
    assert fields.get("model") == left["model"] == left["model"] == "m"
    assert decoded == [b'"m"']
    assert left.encoded(stream=True) == (
        b'{"model":"m","tools":[{"a": [1, 2, 3, 4, 5, 6]}],"stream":true}'
    )
    assert decoded == [b'"m"']


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        ("[]", 0),
        ("[1]", 1),
        ('[[1, 2], {"a": 1, "b": 2}, "a, b, c"]', 3),
        ('"[1, 2, 3]"', 0),
        ('{"a": 1, "b": 2}', 0),
        ("[1, 2, 3, 4]", 4),
    ],
)
def test_entries_are_counted_without_them(
    value: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "_decoded")
    fields = Fields.of(f'{{"a": {value}}}'.encode())
    assert [fields.has_more_than(most, "a") for most in range(1, 6)] == [
        entries > most for most in range(1, 6)
    ]
    assert not fields.has_more_than(0, "b")


def test_what_was_taken_out_is_not_there() -> None:
    fields = Fields.of(b'{"a": 1, "b": 2}')
    assert fields["a"] == 1
    left = fields.without({"a"})
    assert "a" not in left
    assert left.get("a") is None
    assert left == {"b": 2}


def test_of_several_fields_with_one_name_the_last_one_counts() -> None:
    assert Fields.of(b'{"n": 1, "\\u006e": 2}') == {"n": 2}


@pytest.mark.parametrize("value", ["[ ]", "{}", '""', "0", "0.0", "null", "false", "-0"])
def test_nothing_is_said(value: str) -> None:
    assert not Fields.of(f'{{"a": {value}}}'.encode()).says("a")


@pytest.mark.parametrize("body", [b"[1]", b"1", b'"x"', b"null", b"[1"])
def test_what_is_no_object(body: bytes) -> None:
    with pytest.raises(NoObjectError):
        Fields.of(body)


@pytest.mark.parametrize(
    "value",
    [
        *("01", "1.", ".5", "1e", "-", "+1", "1e+", "0x1", "1.5.5", "1-2", "NaN", "-Infinity"),
        *("tru", "truee", "nul", "1 2", "[1,]", "[,]", "[1 2]", "[[]]]", "[1}", '{"b":1,}'),
        *('{"b" 1}', "{1:2}", "{b:1}", '"\\x"', '"\\u12"', '"\\u12zz"', '"\t"', '"', "1}x"),
    ],
)
def test_what_is_no_json_is_refused_wherever_it_is(value: str) -> None:
    for body in (f'{{"a":{value}}}', f'{{"a":[{{"b":[{value}]}}],"c":1}}'):
        with pytest.raises(msgspec.DecodeError):
            Fields.of(body.encode())
