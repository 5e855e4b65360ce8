"""What a request's body must be before a backend is bothered with it.

A body that passes goes on byte for byte. Only what llama-server would refuse, answer with a 500 or
misunderstand is refused here, with the name of the field; and what exceeds a limit of this rig.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from typing import Any, NoReturn

from heartcode.api.routes import Endpoint, Kind
from heartcode.errors import ApiError

# llama-server makes a task of each prompt of a list, and with very many it is busy with these alone
# for minutes, also when their client has left.
_MOST_PROMPTS = 256
# llama-server: until the end of the context.
_NO_MAXIMUM = -1
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# How digits, and the letter of an exponent, are looked for: as one of each.
_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
# Less than what a number has that is beyond all doubles. A text may have it as well.
_HUGE = (b"0" * 300, b"0e000")


def parse(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """Return the body's fields.

    Raises:
        ApiError: 400 for what is not a JSON object or nested more deeply than `max_depth`.
    """
    try:
        # llama-server skips a byte order mark. json.loads(bytes) would take UTF-16, and json.loads
        # takes NaN, 1e400 and 400 digits; llama-server answers these with a 500.
        text = body.removeprefix(BOM_UTF8).decode()
        decoder = _CAREFUL_DECODER if _may_have_a_huge_number(body) else _DECODER
        fields = decoder.decode(text)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    has_many_levels = body.count(b"[") + body.count(b"{") > max_depth
    if has_many_levels and _is_deeper_than(max_depth, fields):
        message = f"the body is nested more deeply than {max_depth} levels"
        raise ApiError(400, message, code="json_too_deep")
    if _SURROGATE.search(body) and _has_half_a_character(fields):
        message = "the body has half of a character: a \\ud800 to \\udfff without its other half"
        raise ApiError(400, message, code="invalid_json")
    return fields


def check(fields: dict[str, Any], endpoint: Endpoint, *, max_tokens: int) -> None:
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


def _check_prompt(fields: dict[str, Any], endpoint: Endpoint) -> None:
    name = endpoint.prompt
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
        for number, message in enumerate(value):
            _check_message(message, f"{name}[{number}]")


def _are_too_many_prompts(value: object) -> bool:
    if not isinstance(value, list) or len(value) <= _MOST_PROMPTS:
        return False
    return not any(isinstance(each, int) for each in value)  # with a number it is one, in tokens


def _check_message(message: object, name: str) -> None:
    """Refuse what llama-server answers with a 500 (common/chat.cpp at the pinned commit)."""
    if not isinstance(message, dict):
        raise _wrong(name, "must be an object")
    if "role" not in message:
        raise _wrong(f"{name}.role", "is required", code="missing_required_parameter")
    if not isinstance(message["role"], str):
        raise _wrong(f"{name}.role", "must be a string")
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            raise _wrong(f"{name}.content[{number}]", "must be an object")
        if part.get("type") == "text" and not isinstance(part.get("text"), str):
            raise _wrong(f"{name}.content[{number}].text", "must be a string")


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


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _may_have_a_huge_number(body: bytes) -> bool:
    """Return whether each number has to be looked at, which takes ten times as long."""
    alike = body.translate(_ALIKE, b"+")
    return any(sign in alike for sign in _HUGE)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    _finite(text)  # where it is beyond 64 bits llama-server takes it for one of these
    return int(text)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_CAREFUL_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole
)


def _has_half_a_character(fields: object) -> bool:
    # JavaScript cuts a text where it likes, in the middle of an emoji too, and sends it like that.
    # llama-server answers with a 500.
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_deeper_than(limit: int, value: dict[str, Any]) -> bool:
    level: list[dict[str, Any] | list[Any]] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
