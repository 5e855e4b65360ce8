"""What a request's body must be before a backend is bothered with it.

A body that passes goes on byte for byte. Only what llama-server would refuse, answer with a 500 or
misunderstand is refused here, with the name of the field; and what exceeds a limit of this rig.
"""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from itertools import product
from typing import Any

import msgspec

from heartcode.api.routes import Endpoint, Kind
from heartcode.errors import ApiError
from heartcode.fields import Fields, NoObjectError

# llama-server makes a task of each prompt of a list, and with very many it is busy with these alone
# for minutes, also when their client has left.
_MOST_PROMPTS = 256
# Messages, and the parts of all of them: each is looked at several times. No context here has room
# for so many.
_MOST_PIECES = 10_000
# llama-server: until the end of the context.
_NO_MAXIMUM = -1
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# How digits, and the letter of an exponent, are looked for: as one of each.
_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
# Less than what a number has that is beyond all doubles. A text may have it as well.
_HUGE = (b"0" * 200, b"0e000")
# As long as a whole number is that no double holds.
_WHOLE = b"0" * 309
# A whole number, and no part of another one.
_LONG = re.compile(rb"(?<![0-9.eE])(?<![eE][+-])[0-9]{309,}(?![0-9.eE])")
# All that is no bracket, and how brackets are read: as of one kind.
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ROUND = bytes.maketrans(b"[]{}", b"()()")
# So many brackets are counted at a time, and so many are looked up where that does not tell enough.
_BRACKETS = 64
_FEW_BRACKETS = 8


def parse(body: bytes, *, max_depth: int) -> Fields:
    """Return the body's fields.

    Raises:
        ApiError: 400 for what is not a JSON object or nested more deeply than `max_depth`.
    """
    body = body.removeprefix(BOM_UTF8)  # llama-server skips a byte order mark
    try:
        body.decode()
        fields = Fields.of(body)
        is_huge = _has_a_huge_number(body)
    except NoObjectError:
        raise ApiError(400, "the body is not a JSON object", code="invalid_json") from None
    except (ValueError, RecursionError):
        raise _no_json(body) from None
    if is_huge:  # llama-server answers it with a 500
        raise _no_json(body)
    has_many_levels = body.count(b"[") + body.count(b"{") > max_depth
    if has_many_levels and _is_deeper_than(max_depth, _outside_texts(body)):
        message = f"the body is nested more deeply than {max_depth} levels"
        raise ApiError(400, message, code="json_too_deep")
    return fields


def check(fields: Fields, endpoint: Endpoint, *, max_tokens: int) -> None:
    """Check the fields that every client of `endpoint` has to get right.

    Raises:
        ApiError: 400, with the field's name as `param`.
    """
    if endpoint.prompt:
        _check_prompt(fields, endpoint)
    if endpoint.kind is not Kind.GENERATES:
        return
    if not isinstance(fields.get("stream"), bool | None):
        raise _wrong("stream", "must be true or false")
    for name in endpoint.limits:
        _check_tokens(name, fields.get(name), max_tokens)


def _check_prompt(fields: Fields, endpoint: Endpoint) -> None:
    name = endpoint.prompt
    if name != "prompt" and fields.has_more_than(_MOST_PIECES, name):
        raise _too_many(name)
    value = fields.get(name)
    if value is None:
        raise _wrong(name, "is required", code="missing_required_parameter")
    # llama-server continues instructions without input, and counts and shows what is not there.
    if value == [] and name != "input" and endpoint.kind is Kind.GENERATES:
        raise _wrong(name, "must not be empty")
    if name == "prompt" and _are_too_many_prompts(value):
        raise _wrong(name, f"must not have more than {_MOST_PROMPTS} prompts")
    if name == "messages":
        if not isinstance(value, list):
            raise _wrong(name, "must be a list")
        _check_messages(value)
    if name == "input" and isinstance(value, list):
        contents = (each.get("content") for each in value if type(each) is dict)
        if len(value) + sum(len(parts) for parts in contents if type(parts) is list) > _MOST_PIECES:
            raise _too_many(name)


def _are_too_many_prompts(value: object) -> bool:
    if not isinstance(value, list) or len(value) <= _MOST_PROMPTS:
        return False
    # With a number it is one, in tokens and texts; so nobody has to look for it for long.
    return not any(isinstance(each, int) for each in value[: _MOST_PROMPTS + 1])


def _check_messages(messages: list[Any]) -> None:
    """Refuse what llama-server answers with a 500 (common/chat.cpp at the pinned commit)."""
    pieces = len(messages)
    for number, message in enumerate(messages):
        if type(message) is not dict or type(message.get("role")) is not str:
            raise _wrong_message(message, f"messages[{number}]")
        content = message.get("content")
        if type(content) is list:
            pieces += len(content)
            if pieces > _MOST_PIECES:
                raise _too_many("messages")
            _check_parts(content, number)


def _too_many(name: str) -> ApiError:
    return _wrong(name, f"must not have more than {_MOST_PIECES} entries and parts of them")


def _wrong_message(message: object, name: str) -> ApiError:
    if not isinstance(message, dict):
        return _wrong(name, "must be an object")
    if "role" not in message:
        return _wrong(f"{name}.role", "is required", code="missing_required_parameter")
    return _wrong(f"{name}.role", "must be a string")


def _check_parts(parts: list[Any], message: int) -> None:
    for number, part in enumerate(parts):
        if type(part) is not dict:
            raise _wrong(f"messages[{message}].content[{number}]", "must be an object")
        if part.get("type") == "text" and type(part.get("text")) is not str:
            raise _wrong(f"messages[{message}].content[{number}].text", "must be a string")


def _check_tokens(name: str, value: object, highest: int) -> None:
    if value is None:
        return
    if not isinstance(value, int | float):  # llama-server takes 16.0, and true for 1
        raise _wrong(name, "must be a number")
    if value < _NO_MAXIMUM:
        raise _wrong(name, "must not be negative")
    if value > highest:
        raise _wrong(name, f"must not be greater than {highest}")


def _wrong(name: str, what: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{name} {what}", code=code, param=name)


def _no_json(body: bytes) -> ApiError:
    # JavaScript cuts a text where it likes, in the middle of an emoji too, and sends it like that.
    why = "; a \\ud800 to \\udfff may be half of a character" if _SURROGATE.search(body) else ""
    return ApiError(400, f"the body is not valid JSON{why}", code="invalid_json")


def _has_a_huge_number(body: bytes) -> bool:
    """Return whether a number is beyond all doubles.

    Raises:
        ValueError: where one is, and it has a fraction or an exponent.
    """
    alike = _alike(body)
    if not any(sign in alike for sign in _HUGE):
        return False
    outside = _outside_texts(body)
    alike = _alike(outside)
    if not any(sign in alike for sign in _HUGE):
        return False
    if _WHOLE in alike and any(math.isinf(float(number)) for number in _LONG.findall(outside)):
        return True
    msgspec.json.decode(body)
    return False


def _alike(body: bytes) -> bytes:
    return body.translate(_ALIKE, b"+")


def _outside_texts(body: bytes) -> bytes:
    """Return what of a JSON body is in no string."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b'"'.join(body.split(b'"')[::2])


def _of_brackets(brackets: bytes) -> tuple[int, int]:
    """Return how far above where they begin brackets rise, and where they end."""
    level = highest = 0
    for bracket in brackets:
        level += 1 if bracket == ord("(") else -1
        highest = max(highest, level)
    return highest, level


_LEVELS = {
    some: _of_brackets(some)
    for length in range(1, _FEW_BRACKETS + 1)
    for some in (bytes(each) for each in product(b"()", repeat=length))
}


def _is_deeper_than(limit: int, outside: bytes) -> bool:
    """Return whether JSON is nested more deeply, of which this is all that is in no string."""
    brackets = outside.translate(_ROUND, _NO_BRACKETS)
    level = 0
    for start in range(0, len(brackets), _BRACKETS):
        some = brackets[start : start + _BRACKETS]
        opened = some.count(b"(")
        if level + opened <= limit:
            level += 2 * opened - len(some)
            continue
        for begin in range(0, len(some), _FEW_BRACKETS):
            highest, ends = _LEVELS[some[begin : begin + _FEW_BRACKETS]]
            if level + highest > limit:
                return True
            level += ends
    return False
