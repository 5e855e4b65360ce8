"""Requests that no client library would send, each made of a seed and a number alone.

    case = generated(seed, number)

They are bytes for a raw socket. What is a prompt or a key in them has a mark, by which the logs are
searched afterwards. None of them is meant to break llama-server, which is not ours to break: what
is found to do so is refused by the proxy and described in words, and not kept here.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from heartcode.api.routes import ENDPOINTS

from tools.bench.bodies import KINDS

#: Stands in every prompt, and in every key that is not the right one.
PROMPT_MARK, KEY_MARK = "PROMPTMARK", "KEYMARK"
#: Stands in the query of a URL, where neither belongs. nginx's error log tells it.
QUERY_MARK = "QUERYMARK"
#: What the proxy takes at most; a body beyond it is announced and not sent.
LIMIT = 10 * 1024 * 1024

_MODEL = "counting"
_CRLF = b"\r\n"
_GENERATING = {
    *("/v1/chat/completions", "/v1/completions", "/completion", "/v1/messages", "/v1/responses"),
}
_PATHS = sorted({path for endpoint in ENDPOINTS for path in endpoint.paths})


class Ending(Enum):
    """What the client does when it has sent everything."""

    READ = "reads the answer"
    HALF_CLOSE = "closes its sending half, and reads"
    LEAVE = "closes the connection"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request, or what pretends to be one.

    Attributes:
        number: its number under its seed.
        kind: what is wrong with it.
        pieces: the bytes, in the pieces in which they are sent.
        ending: what follows; only what has a proper end can wait for an answer.
        has_no_body: whether the answer to it has a head alone.
    """

    number: int
    kind: str
    pieces: tuple[bytes, ...]
    ending: Ending
    has_no_body: bool = False

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return sum(map(len, self.pieces))


def generated(seed: int, number: int, key: str) -> Case:
    """Return request `number` of `seed`; `key` opens the gateway."""
    rng = random.Random(f"{seed}/{number}")
    kinds, weights = zip(*_KINDS.items(), strict=True)
    (kind,) = rng.choices(kinds, weights)
    made = _MAKERS[kind](rng, key)
    ending = Ending.READ if made.is_whole else rng.choice([Ending.HALF_CLOSE, Ending.LEAVE])
    if made.is_whole and rng.random() < 0.03:
        ending = rng.choice([Ending.HALF_CLOSE, Ending.LEAVE])
    return Case(
        number=number,
        kind=kind,
        pieces=_in_pieces(rng, made.data),
        ending=ending,
        has_no_body=made.data.startswith(b"HEAD "),
    )


def plain(key: str) -> Case:
    """Return a request with nothing wrong in it, for what others cost beside it."""
    body = {"messages": [{"role": "user", "content": PROMPT_MARK}], "max_tokens": 4}
    data = _request(json.dumps(body).encode(), key)
    return Case(number=0, kind="plain", pieces=(data,), ending=Ending.READ)


@dataclass(frozen=True)
class _Made:
    data: bytes
    is_whole: bool = True


def _request(
    body: bytes,
    key: str,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> bytes:
    lines = [
        (b"Host", b"gateway"),
        (b"Authorization", b"Bearer " + key.encode()),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", str(len(body)).encode()),
    ]
    return _raw(f"{method} {path} HTTP/1.1".encode(), lines + (headers or []), body)


def _raw(line: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    head = [line, *(name + b": " + value for name, value in headers)]
    return _CRLF.join([*head, b"", body])


def _in_pieces(rng: random.Random, data: bytes) -> tuple[bytes, ...]:
    if rng.random() < 0.7 or len(data) < 2:
        return (data,)
    cuts = sorted(rng.sample(range(1, len(data)), k=min(len(data) - 1, rng.randint(1, 4))))
    return tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))


# Bodies that are right.


def _said(rng: random.Random) -> str:
    words = "".join(rng.choices(string.ascii_letters + ' .,\n😀é"\\', k=rng.randint(0, 60)))
    return f"{PROMPT_MARK} {words}"


def _body(rng: random.Random, path: str) -> dict[str, Any]:
    """Return what an endpoint takes; answers are of a few tokens."""
    fields = _asked(rng, path, _said(rng))
    if path in _GENERATING:
        limit = "max_output_tokens" if "responses" in path else "max_tokens"
        fields[limit] = rng.randint(1, 4)
        for name, value in rng.sample(sorted(_OPTIONS.items()), k=rng.randint(0, 3)):
            fields[name] = value(rng)
    if rng.random() < 0.7:
        fields["model"] = _MODEL
    return fields


def _asked(rng: random.Random, path: str, said: str) -> dict[str, Any]:
    """Return what `path` has to be asked with."""
    short = path.rpartition("/")[2]
    if "responses" in path:
        return {"input": said}
    if "chat" in path or "messages" in path:
        roles = ["system", "user", "assistant", "user"][rng.randint(0, 3) :]
        return {"messages": [{"role": role, "content": said} for role in roles]}
    others: dict[str, dict[str, Any]] = {
        "apply-template": {"messages": [{"role": "user", "content": said}]},
        "tokenize": {"content": said},
        "detokenize": {"tokens": [1, 2, 3]},
        "infill": {"input_prefix": said, "input_suffix": said, "prompt": said, "max_tokens": 2},
        "embeddings": {"input": said},
        "embedding": {"input": said},
        "rerank": {"query": said, "documents": [said, said]},
        "reranking": {"query": said, "documents": [said, said]},
    }
    return others.get(short, {"prompt": said})


_OPTIONS: dict[str, Callable[[random.Random], Any]] = {
    "stream": lambda rng: rng.random() < 0.5,
    "temperature": lambda rng: rng.random() * 2,
    "seed": lambda rng: rng.randint(-1, 2**31),
    "stop": lambda rng: rng.choice([[], "x", ["a", "b"], [""]]),
    "stream_options": lambda _: {"include_usage": True},
    "prompt_cache_key": _said,
    "user": _said,
    "id_slot": lambda rng: rng.randint(-1, 5),
    "return_progress": lambda rng: rng.random() < 0.5,
    "n": lambda rng: rng.randint(1, 2),
    "top_k": lambda rng: rng.randint(0, 100),
    "cache_prompt": lambda rng: rng.random() < 0.5,
    "logit_bias": lambda _: [[5, 1.0]],
    "response_format": lambda _: {"type": "text"},
    "tools": lambda _: [],
}


def _plain(rng: random.Random, key: str) -> _Made:
    path = rng.choice(_PATHS)
    return _Made(_request(_dumped(rng, _body(rng, path)), key, path=path))


def _dumped(rng: random.Random, fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


# What is wrong with others.


def _anything(rng: random.Random, depth: int = 0) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randint(-(2**40), 2**70),
        lambda: rng.uniform(-1e9, 1e9),
        lambda: "",
        lambda: _said(rng),
        lambda: "x" * rng.randint(1, 3000),
        list,
        dict,
    ]
    if depth < 3:
        kinds += [
            lambda: [_anything(rng, depth + 1) for _ in range(rng.randint(1, 4))],
            lambda: {_said(rng)[:20]: _anything(rng, depth + 1) for _ in range(rng.randint(1, 3))},
        ]
    return rng.choice(kinds)()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to everything in a value."""
    inside: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    found = [path] if path else []
    for name, child in inside:
        found += _places(child, (*path, name))
    return found


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    at = value
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = new
    return value


def _wrong_types(rng: random.Random, key: str) -> _Made:
    path = rng.choice(_PATHS)
    fields: Any = _body(rng, path)
    if path in _GENERATING and rng.random() < 0.5:
        name = rng.choice(sorted(_OPTIONS))
        fields[name] = _anything(rng)
    for _ in range(rng.randint(1, 2)):
        fields = _replaced(fields, rng.choice(_places(fields)), _anything(rng))
    if rng.random() < 0.05:
        fields = _anything(rng)
    elif rng.random() < 0.2:
        del fields[rng.choice(sorted(fields))]
    return _Made(_request(_dumped(rng, fields), key, path=path))


def _malformed(rng: random.Random, key: str) -> _Made:
    path = rng.choice(_PATHS)
    body = bytearray(_dumped(rng, _body(rng, path)))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        change = rng.randrange(5)
        if change == 0:
            del body[at : at + rng.randint(1, 9)]
        elif change == 1:
            body[at:at] = rng.choice(
                [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"//", b"\0"]
            )
        elif change == 2:
            body[at:at] = body[at : at + 30]
        elif change == 3:
            body[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
        else:
            del body[at:]
    return _Made(_request(bytes(body), key, path=path))


def _deep(rng: random.Random, key: str) -> _Made:
    depth = rng.choice([1, 50, 99, 100, 101, 500, 1000, 5000, 100_000])
    begin, end = rng.choice([("[", "]"), ('{"a":', "}"), ('[{"content":', "}]")])
    nested = begin * depth + "1" + end * (depth if rng.random() < 0.8 else depth // 2)
    name = rng.choice(["messages", "prompt", "a", "tools", "model", "input", "content", "stop"])
    path = rng.choice(_PATHS)
    rest = json.dumps(_body(rng, path))[1:]
    return _Made(_request(f'{{"{name}":{nested},{rest}'.encode(), key, path=path))


_NUMBERS = [
    *("1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity", "-0", "1e5", "16.5", "0x10"),
    *("9223372036854775808", "-9223372036854775809", "4294967296", "1" * 400, "1" * 5000),
    *("-" + "9" * 60, "0." + "0" * 3000 + "1", "1." + "3" * 9000, "1e99999999999999999999", "01"),
    *("-1", "-2", "-2147483648", "2147483647", "2147483648", "1e308", "5e-324"),
]
_NUMERIC = [
    *("max_tokens", "n_predict", "max_completion_tokens", "seed", "temperature", "top_p", "min_p"),
    *("repeat_penalty", "presence_penalty", "id_slot", "n_keep", "mirostat", "dry_multiplier"),
    *("top_k", "repeat_last_n", "typical_p", "n_probs", "xtc_probability", "dynatemp_range"),
]


def _numbers(rng: random.Random, key: str) -> _Made:
    path = rng.choice(sorted(_GENERATING))
    fields = _body(rng, path)
    given = "".join(f'"{name}":{rng.choice(_NUMBERS)},' for name in rng.sample(_NUMERIC, k=2))
    text = json.dumps(fields)[1:]
    both = f"{{{given}{text}" if rng.random() < 0.5 else f"{{{text[:-1]},{given[:-1]}}}"
    return _Made(_request(both.encode(), key, path=path))


_BROKEN = [
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf8"),
    *(b"\\ud800", b"\\udc00\\ud800", b"\\ud83d", b"\\u0000", b"\\uZZZZ", b"\\x", b"\0", b"\x01"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", "\u2028\u202e\ufffe".encode()),
]


def _utf8(rng: random.Random, key: str) -> _Made:
    path = rng.choice(_PATHS)
    body = json.dumps(_body(rng, path)).encode()
    how = rng.random()
    if how < 0.1:
        body = body.decode().encode(rng.choice(["utf-16", "utf-16-le", "utf-32"]))
    elif how < 0.2:
        body = b"\xef\xbb\xbf" * rng.randint(1, 2) + body
    else:
        at = body.find(PROMPT_MARK.encode())
        at = rng.randrange(len(body)) if at < 0 or rng.random() < 0.3 else at
        body = body[:at] + b"".join(rng.choices(_BROKEN, k=rng.randint(1, 3))) + body[at:]
    return _Made(_request(body, key, path=path))


def _headers(rng: random.Random, key: str) -> _Made:
    body = json.dumps(_body(rng, "/v1/chat/completions")).encode()
    wrong = KEY_MARK.encode() + bytes(rng.choices(string.ascii_letters.encode(), k=20))
    more: list[tuple[bytes, bytes]] = rng.choice(
        [
            [(b"Authorization", b"Bearer " + wrong)],
            [(b"X-Api-Key", wrong)],
            [(b"X-HeartCode-Try", rng.choice([b"slot", b"queue", b"read", b"x" * 500]))],
            [(b"X-HeartCode-Model", rng.choice([b"second", b"", wrong, b"\xff"]))],
            [(b"X-HeartCode-Client", b"c" * rng.randint(0, 3000))],
            [(b"X-Request-Id", rng.choice([b"", b"a b", b"x" * 200, b"\xe9", b"ok-1", b'"\\']))],
            [(b"X-Session-Id", rng.choice([b"", b"s" * 3000, b"\xff\xfe", wrong]))],
            [(b"X-Filler-%d" % n, b"x" * rng.randint(0, 100)) for n in range(rng.randint(1, 300))],
            [(b"X-Large", b"x" * rng.choice([100, 4000, 9000, 40_000]))],
            [(b"Host", b"another")],
            [(b"Cookie", b"key=" + wrong)],
            [(b"Expect", rng.choice([b"100-continue", b"200-ok"]))],
            [
                (
                    b"Content-Type",
                    rng.choice([b"", b"text/plain", b"multipart/form-data; boundary=x"]),
                )
            ],
            [(b"Content-Encoding", rng.choice([b"gzip", b"br"]))],
            [
                (
                    b"Connection",
                    rng.choice([b"close", b"keep-alive", b"Upgrade, Host", b"Content-Length"]),
                )
            ],
            [(b"Upgrade", b"h2c"), (b"Connection", b"Upgrade")],
            [(b"Accept", b"*/*" * rng.randint(1, 500))],
            [(b"X Bad", b"1")],
            [(b"X-Bad\0", b"1")],
            [(b"X-Bad", b"a\0b")],
            [(b"X-Under_score", b"1")],
            [(b" X-Folded", b"1")],
            [(b"X-Space ", b"1")],
            [(b"", b"no name")],
            [(b"Range", b"bytes=0-")],
            [(b"X-Forwarded-For", b"127.0.0.1, " * 50), (b"X-Forwarded-Proto", b"https")],
            [(b"X-Conversation-Id", wrong)],
        ]
    )
    if rng.random() < 0.2:  # instead of the right key
        right = b"Authorization: Bearer " + key.encode() + _CRLF
        return _Made(_request(body, key, headers=more).replace(right, b""))
    return _Made(_request(body, key, headers=more))


def _smuggling(rng: random.Random, key: str) -> _Made:
    body = json.dumps(_body(rng, "/v1/chat/completions")).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    inner = b"GET /v1/models HTTP/1.1\r\nHost: inner\r\nX-Request-Id: smuggled\r\n\r\n"
    length = b"%d" % len(body)
    framing: list[tuple[list[tuple[bytes, bytes]], bytes]] = [
        ([(b"Content-Length", length), (b"Transfer-Encoding", b"chunked")], chunked + inner),
        ([(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"4")], chunked + inner),
        ([(b"Transfer-Encoding", b"chunked, identity")], chunked),
        ([(b"Transfer-Encoding", b"identity, chunked")], chunked),
        ([(b"Transfer-Encoding", b"xchunked")], chunked),
        ([(b"Transfer-Encoding", b"\x0bchunked")], chunked),
        ([(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"cow")], chunked),
        ([(b"Transfer-Encoding ", b"chunked"), (b"Content-Length", length)], body + inner),
        ([(b"Content-Length", length), (b"Content-Length", b"1")], body + inner),
        ([(b"Content-Length", length), (b"Content-Length", length)], body + inner),
        ([(b"Content-Length", b"+" + length)], body + inner),
        ([(b"Content-Length", b"-1")], body + inner),
        ([(b"Content-Length", b"0x%x" % len(body))], body + inner),
        ([(b"Content-Length", length + b" ")], body + inner),
        ([(b"Content-Length", length + b", " + length)], body + inner),
        ([(b"Content-Length", b"9" * rng.choice([15, 19, 20, 60]))], body),
        ([(b"Content-Length", b"")], body + inner),
        ([(b"Content-Length", b"0")], inner),
        ([], body + inner),
        ([(b"Transfer-Encoding", b"chunked")], b"0\r\n\r\n" + inner),
        ([(b"Transfer-Encoding", b"chunked")], b"0;a=b\r\nX-Trailer: 1\r\n\r\n" + inner),
        ([(b"Transfer-Encoding", b"chunked")], chunked.replace(b"\r\n", b"\n")),
        ([(b"Transfer-Encoding", b"chunked")], b"ffffffffffffffff\r\n" + body),
        ([(b"Transfer-Encoding", b"chunked")], b"fffffffffffffffff0\r\n" + body),
        ([(b"Transfer-Encoding", b"chunked")], b"-1\r\n" + body),
        ([(b"Transfer-Encoding", b"chunked")], b"0x5\r\nhello\r\n0\r\n\r\n"),
        ([(b"Transfer-Encoding", b"chunked")], b"5 \r\nhello\r\n0\r\n\r\n"),
        ([(b"Transfer-Encoding", b"chunked")], b"5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n"),
        ([(b"Transfer-Encoding", b"chunked")], b"5\r\nhelloXX0\r\n\r\n"),
        ([(b"Transfer-Encoding", b"chunked")], b"1\r\n{\r\n" * 300 + b"0\r\n\r\n"),
    ]
    headers, after = rng.choice(framing)
    lines = [(b"Host", b"gateway"), (b"Authorization", b"Bearer " + key.encode()), *headers]
    line = rng.choice([b"POST /v1/chat/completions HTTP/1.1"] * 4 + [b"POST /health HTTP/1.1"])
    data = _raw(line, lines, after)
    if rng.random() < 0.1:
        data = data.replace(_CRLF, rng.choice([b"\n", b"\r", b"\r\r\n"]), rng.randint(1, 3))
    # Whoever takes it for unfinished waits for the rest.
    return _Made(data, is_whole=False)


def _unfinished(rng: random.Random, key: str) -> _Made:
    path = rng.choice(_PATHS)
    data = _request(json.dumps(_body(rng, path)).encode(), key, path=path)
    return _Made(data[: rng.randrange(len(data))], is_whole=False)


def _large(rng: random.Random, key: str) -> _Made:
    if rng.random() < 0.2:  # beyond the limit: announced, and only begun
        announced = LIMIT + rng.choice([1, 10**9])
        headers = [(b"Host", b"gateway"), (b"Authorization", b"Bearer " + key.encode())]
        headers.append((b"Content-Length", b"%d" % announced))
        return _Made(
            _raw(b"POST /v1/completions HTTP/1.1", headers, b'{"prompt":"x'), is_whole=False
        )
    size = int(10 ** rng.uniform(3.5, 5.7))
    body = KINDS[rng.choice(sorted(KINDS))](size).encode()
    return _Made(_request(body, key, path=rng.choice(_PATHS)))


def _paths(rng: random.Random, key: str) -> _Made:
    method = rng.choice(
        ["GET"] * 6
        + ["POST"] * 3
        + ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "get", "X" * 40]
    )
    base = rng.choice(
        [
            *(
                "/v1/models",
                "/v1/models/counting",
                "/health",
                "/livez",
                "/props",
                "/slots",
                "/fleet",
            ),
            *(
                "/",
                "/status",
                "/status/data/x",
                "/.heartcode/401",
                "/v1/chat/completions",
                "/page/",
            ),
            *(
                "/metrics",
                "/tools",
                "/cors-proxy",
                "/lora-adapters",
                "/.heartcode/rig/0",
                "/slots/0",
            ),
        ]
    )
    path = rng.choice(
        [
            base,
            base + "/",
            "/" + base,
            base.replace("/", "//"),
            base + "/..",
            base + "/../health",
            "/health/.." + base,
            "/%2e%2e" + base,
            base + "%2f..%2f..%2fetc%2fpasswd",
            base + "%00",
            base + "%0d%0aX-Injected:1",
            base + "%",
            base + "%zz",
            base + "?" + QUERY_MARK,
            base + f"?model={QUERY_MARK}&key={QUERY_MARK}",
            base + "?model=" + "%F0%9F%98%80" * rng.randint(1, 300),
            base + "?format=text&fail_on_no_slot=1",
            base + "?" + "a&" * rng.randint(1, 2000),
            base + "#x",
            base + ";x=1",
            base + "\\..\\",
            "http://elsewhere" + base,
            "//elsewhere" + base,
            "*",
            "elsewhere:443",
            base + "/" + "x" * rng.choice([100, 5000, 20_000]),
            base + "\xe9",
            "/v1/models/" + "%22%5c%7b%24heartcode_key%7d",
        ]
    )
    version = rng.choice(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "http/1.1", ""])
    line = f"{method} {path} {version}".strip().encode("latin-1")
    headers = [(b"Host", b"gateway"), (b"Authorization", b"Bearer " + key.encode())]
    body = b""
    if rng.random() < 0.3:
        body = b"{}" * rng.choice([1, 600, 5000])
        headers.append((b"Content-Length", b"%d" % len(body)))
    data = _raw(line, headers, body)
    # Without a version it is the first line alone, and what follows is none of it.
    return _Made(data, is_whole=bool(version) and version != "http/1.1")


_Maker = Callable[[random.Random, str], _Made]
_KINDS: dict[str, int] = {
    "plain": 12,
    "wrong types": 18,
    "malformed JSON": 14,
    "depth": 5,
    "huge numbers": 8,
    "broken UTF-8": 8,
    "headers": 10,
    "smuggling": 10,
    "unfinished": 6,
    "large": 3,
    "paths": 10,
}
_MAKERS: dict[str, _Maker] = dict(
    zip(
        _KINDS,
        (
            *(_plain, _wrong_types, _malformed, _deep, _numbers, _utf8),
            *(_headers, _smuggling, _unfinished, _large, _paths),
        ),
        strict=True,
    )
)
