"""What a request's prompt begins with, in a form that can be compared and kept.

    prompt = Prompt.of(fields)

A prompt becomes a chain of hashes, one for each block of at most `BLOCK_CHARS` characters: equal
hashes at one place mean equal prompts up to there. The text itself is not kept. Hashes of different
secrets have nothing in common.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

# About 16 tokens: a prefix is known to within a twentieth of a second of a P106's work.
BLOCK_CHARS = 64
# A quarter of a million characters, about 65,000 tokens; the slots of these cards hold fewer. What
# follows is counted, and nothing of it is told apart.
MAX_BLOCKS = 4096
# So many messages and parts of them are taken one by one, so that only what they say counts: marks
# such as `cache_control` move from turn to turn. What follows is taken as it was sent: a body of
# very many small parts would keep the event loop, see docs/reliability.md.
_ONE_BY_ONE = 256
# A chat template writes about four tokens around each message.
_MARKUP_CHARS = 16

_HASH_BYTES = 8
#: How long a secret is.
SECRET_BYTES = 16

# What a message has at least.
_SAID = {"role", "content"}
# The fields in which the endpoints of design and llama-server carry text, in a template's order.
_TEXT_FIELDS = ("tools", "system", "instructions", "prompt", "input", "messages")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The beginning of a conversation.

    Attributes:
        blocks: a hash for each block, which stands for all blocks before it as well.
        ends: where each block ends, in characters from the beginning.
        chars: the length of the whole.
        open_ended: whether an answer goes on in the last block, as in a text completion; in a chat
            it begins a block of its own.
    """

    blocks: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    chars: int = 0
    open_ended: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any], *, secret: bytes | None = None) -> Prompt:
        """Return the prompt of a request's JSON body; whatever is in it, this does not fail.

        Hashes are of this process alone where no `secret` of `SECRET_BYTES` is given.
        """
        texts: list[str] = []
        ends, chars, open_ended = array("q"), 0, False
        for text, markup, is_open in _parts(fields):
            starts = range(0, len(text), BLOCK_CHARS)[: MAX_BLOCKS - len(texts)]
            texts += [text[start : start + BLOCK_CHARS] for start in starts]
            ends.extend(range(chars, chars + len(text), BLOCK_CHARS)[1 : len(starts)])
            if starts:
                ends.append(chars + min(starts[-1] + BLOCK_CHARS, len(text)))
            chars += len(text) + markup
            open_ended = is_open
        return cls(
            blocks=_of_this_process(texts) if secret is None else _for_good(texts, secret),
            ends=ends,
            chars=chars,
            open_ended=open_ended,
        )


# Chains of hashes. 64 bits make a collision a matter of chance that never comes, and a key that
# nobody else has keeps anybody from preparing one.


def _of_this_process(texts: Iterable[str]) -> array[int]:
    # Python's hash of a string is keyed anew in each process, and takes half the time.
    chain, blocks = 0, array("q")
    for text in texts:
        chain = hash((chain, text))
        blocks.append(chain)
    return blocks


def _for_good(texts: Iterable[str], secret: bytes) -> array[int]:
    chain, hashes = secret, bytearray()
    for text in texts:
        block = chain + text.encode(errors="surrogatepass")
        chain = blake2b(block, digest_size=_HASH_BYTES).digest()
        hashes += chain
    return array("q", bytes(hashes))


def _parts(fields: Mapping[str, Any]) -> Iterator[tuple[str, int, bool]]:
    """Yield the texts that a prompt consists of, in order.

    Each comes with the length of the markup that follows, and with whether what comes next in the
    conversation goes on in its last block.
    """
    left = _ONE_BY_ONE
    for name in _TEXT_FIELDS:
        value = fields.get(name)
        if not value:
            continue
        if not isinstance(value, list) or not isinstance(value[0], dict):
            is_text = name == "prompt" and isinstance(value, str)
            yield _text(value), 0, is_text and len(value) % BLOCK_CHARS > 0
            continue
        for number, item in enumerate(value):
            left -= _size(item)
            if left < 0:
                yield _text(value[number:])[:-1], 0, True
                break
            yield _as_text(item), _MARKUP_CHARS, False


def _size(item: Any) -> int:
    """Return how many things there are in an item to be taken one by one."""
    content = item.get("content") if isinstance(item, dict) else None
    return 1 + len(content) if isinstance(content, list) else 1


def _as_text(item: Any) -> str:
    """Return an item as one text: a message's role, its content and whatever else it carries."""
    if not isinstance(item, dict):
        return _text(item)
    text = f"{_text(item.get('role', ''))}\n{_content(item.get('content', ''))}"
    if item.keys() <= _SAID:
        return text
    rest = {name: value for name, value in item.items() if name not in _SAID}
    return f"{text}\n{_text(rest)}"


def _content(value: Any) -> str:
    if isinstance(value, list):  # parts: {"type": "text", "text": "..."}, images, ...
        return "".join(
            part["text"]
            if isinstance(part, dict) and isinstance(part.get("text"), str)
            else _text(part)
            for part in value
        )
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (RecursionError, TypeError, ValueError):
        return ""  # no prompt that llama-server would take
