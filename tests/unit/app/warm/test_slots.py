from __future__ import annotations

import json

import pytest
from heartcode.warm import slots


@pytest.mark.parametrize("body", [b'{"prompt": "a"}', b' \n{ "prompt":"{\\"id_slot\\":7}"}'])
def test_a_body_names_the_slot_and_is_the_same_otherwise(body: bytes) -> None:
    named = slots.naming(body, 3)
    assert named is not None
    assert json.loads(named) == {"id_slot": 3, **json.loads(body)}


@pytest.mark.parametrize("body", [b"{}", b"{ }", b"", b"[]", b" { \n"])
def test_a_body_without_fields_names_none(body: bytes) -> None:
    assert slots.naming(body, 3) is None
