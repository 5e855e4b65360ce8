"""Bodies that take long to read: what a chat may be, and what somebody may think of.

Each kind is made to be of a size, so that the time for one can be compared with that for a larger
one. All but those that say so in `NO_JSON` are JSON that a rig would take in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

MODEL = "bench"
#: Kinds that are no JSON.
NO_JSON = {"commas", "commas in a list", "spaces that never end", "quotes alone", "brackets alone"}


def _filled(size: int, unit: str) -> str:
    return unit * max(1, size // len(unit))


def _chat(text: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": text}], "model": MODEL})


def _repeated(size: int, item: Any) -> list[Any]:
    return [item] * max(1, size // len(json.dumps(item) + ", "))


def _role_play(size: int) -> str:
    said = '*She smiles.* "Hello there," she said, "how are you?"\n\n' + "And on it goes. " * 40
    turn = {"role": "assistant", "content": said}
    turns = [
        turn | {"role": ("user", "assistant")[n % 2]}
        for n, turn in enumerate(_repeated(size, turn))
    ]
    return json.dumps({"messages": turns, "model": MODEL})


def _tools(size: int) -> str:
    schema: dict[str, Any] = {"type": "string", "description": "What it is"}
    for _ in range(16):
        schema = {"type": "object", "properties": {"a": schema, "b": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    messages = [{"role": "user", "content": "Hi"}]
    return json.dumps({"tools": _repeated(size, tool), "messages": messages, "model": MODEL})


def _turns(size: int) -> str:
    turns = _repeated(size, {"role": "system", "content": ""})
    return json.dumps({"messages": turns, "model": MODEL})


def _parts(size: int) -> str:
    parts = _repeated(size, {"type": "text", "text": "a"})
    return json.dumps({"messages": [{"role": "user", "content": parts}], "model": MODEL})


def _wide(size: int) -> str:
    text = _filled(size // 4, "😀")
    return f'{{"messages":[{{"role":"user","content":"{text}"}}],"model":"{MODEL}"}}'


def _nested(size: int, begin: str, end: str) -> str:
    depth = size // (len(begin) + len(end))
    return '{"a":' + begin * depth + "1" + end * depth + "}"


KINDS: dict[str, Callable[[int], str]] = {
    "plain text": lambda size: _chat(_filled(size, "The quick brown fox. ")),
    "role play": _role_play,
    "source code": lambda size: _chat(_filled(size * 3 // 4, 'say("hello")\n\t')),
    "escaped quotes": lambda size: _chat(_filled(size // 2, '"')),
    "backslashes": lambda size: _chat(_filled(size // 2, "\\")),
    "line breaks": lambda size: _chat(_filled(size // 2, "\n")),
    "unicode escapes": lambda size: _chat(_filled(size // 6, "é")),
    "characters of four bytes": _wide,
    "deep tools": _tools,
    "many turns": _turns,
    "many parts": _parts,
    "tokens": lambda size: '{"prompt":[' + _filled(size, "128000,") + "1]}",
    "strings": lambda size: '{"prompt":[' + _filled(size, '"",') + '""]}',
    "lists": lambda size: '{"a":[' + _filled(size, "[],") + "1]}",
    "deep lists": lambda size: _nested(size, "[", "]"),
    "deep objects": lambda size: _nested(size, '{"a":', "}"),
    "many names": lambda size: "{" + _filled(size, '"k":1,') + '"z":1}',
    "a name again and again": lambda size: "{" + _filled(size, '"model":"abc",') + '"z":1}',
    "escaped names": lambda size: (
        "{" + _filled(size, '"' + "\\u006d" * 20 + '":1,') + f'"mod\\u0065l":"{MODEL}"}}'
    ),
    "long names": lambda size: "{" + _filled(size, '"' + "n" * 200 + '":1,') + '"z":1}',
    "a huge number": lambda size: '{"prompt":' + _filled(size, "1") + "}",
    "huge numbers": lambda size: "{" + _filled(size, '"a":' + "1" * 200 + ",") + '"b":1}',
    "long models": lambda size: (
        "{" + _filled(size, '"model":[' + "1," * 2000 + "1],") + f'"model":"{MODEL}"}}'
    ),
    "spaces": lambda size: '{"a":[' + _filled(size, " 1 ,") + "1]}",
    "many spaces": lambda size: "{" + _filled(size, " ") + f'"model":"{MODEL}"}}',
    "commas": lambda size: "{" + _filled(size, ",") + "}",
    "commas in a list": lambda size: '{"a":[' + _filled(size, ",") + "]}",
    "spaces that never end": lambda size: "{" + _filled(size, " "),
    "quotes alone": lambda size: "{" + _filled(size, '"'),
    "brackets alone": lambda size: "{" + _filled(size, "["),
}


def bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Yield each kind with a body of about `size` bytes, and never more than a few beyond it."""
    for kind, make in KINDS.items():
        yield kind, make(size - 200).encode()
