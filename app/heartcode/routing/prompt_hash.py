"""What a request's prompt begins with, in a form that can be compared and kept.

    prompt = Prompt.of(fields)

A prompt becomes a chain of hashes, one for each block of at most `BLOCK_CHARS` characters: equal
hashes at one place mean equal prompts up to there. The text itself is not kept. Hashes of different
secrets have nothing in common.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

# About 16 tokens: a prefix is known to within a twentieth of a second of a P106's work.
BLOCK_CHARS = 64
# A quarter of a million characters, about 65,000 tokens; the slots of these cards hold fewer. Of
# what follows texts are counted and nothing is told apart: a body of very many small parts would
# keep the event loop, see docs/reliability.md.
MAX_BLOCKS = 4096
# A chat template writes about four tokens around each message.
_MARKUP_CHARS = 16

_HASH_BYTES = 8
#: How long a secret is.
SECRET_BYTES = 16

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
        ends, chars = array("q"), 0
        for value, markup in _parts(fields):
            if len(texts) == MAX_BLOCKS:
                chars += _said_length(value) + markup
                continue
            text = _as_text(value)
            starts = range(0, len(text), BLOCK_CHARS)[: MAX_BLOCKS - len(texts)]
            texts += [text[start : start + BLOCK_CHARS] for start in starts]
            ends.extend(range(chars, chars + len(text), BLOCK_CHARS)[1 : len(starts)])
            if starts:
                ends.append(chars + min(starts[-1] + BLOCK_CHARS, len(text)))
            chars += len(text) + markup
        return cls(
            blocks=_of_this_process(texts) if secret is None else _for_good(texts, secret),
            ends=ends,
            chars=chars,
            open_ended=_ends_in_a_block(fields.get("prompt")),
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


def _ends_in_a_block(prompt: Any) -> bool:
    return isinstance(prompt, str) and len(prompt) % BLOCK_CHARS > 0


def _parts(fields: Mapping[str, Any]) -> Iterator[tuple[Any, int]]:
    """Yield what a prompt consists of in order, each with the length of the markup that follows."""
    for name in _TEXT_FIELDS:
        value = fields.get(name)
        if not value:
            continue
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:
                yield item, _MARKUP_CHARS
        else:
            yield _text(value), 0


def _said_length(item: Any) -> int:
    """Return the length of what is surely said in an item, at no cost."""
    said = item.get("content") if isinstance(item, Mapping) else item
    return len(said) if isinstance(said, str) else 0


def _as_text(item: Any) -> str:
    """Return an item as one text: a message's role, its content and whatever else it carries."""
    if not isinstance(item, Mapping):
        return _text(item)
    rest = {name: value for name, value in item.items() if name not in ("role", "content")}
    text = f"{_text(item.get('role', ''))}\n{_content(item.get('content', ''))}"
    return f"{text}\n{_text(rest)}" if rest else text


def _content(value: Any) -> str:
    if isinstance(value, list):  # parts: {"type": "text", "text": "..."}, images, ...
        return "".join(
            part["text"]
            if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            else _text(part)
            for part in value[:MAX_BLOCKS]
        )
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError):
        return ""  # no prompt that llama-server would take
