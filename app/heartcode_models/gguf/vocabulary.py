"""How many bytes of a text one token can stand for, so that its tokens can be counted from below.

Source: the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098), src/llama-vocab.cpp.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heartcode_models.gguf.header import read_header

_KIND, _TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_NORMAL = 1
# Bytes that stand in no UTF-8.
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
# GPT-2 writes these bytes as themselves and the others, in their order, from U+0100 on.
_AS_THEY_ARE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_WHITE = b" \n\r\t"


def longest_token_bytes(path: Path) -> int:
    """The bytes of the longest token of a model's vocabulary, without its white space.

    A text whose other bytes are more than n times as many has more than n tokens. 0 where that is
    not sure: with a tokenizer that leaves something out of a text, or changes it.

    Raises:
        ModelError: the file cannot be read.
    """
    metadata = read_header(str(path), keep=(_TOKENS, _TYPES)).metadata
    tokens, types = metadata.get(_TOKENS), metadata.get(_TYPES)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return 0
    match metadata.get(_KIND):
        case "llama":
            # Sentencepiece. What is no token becomes tokens of a byte each (resegment).
            return max((_dense(token, _WHITE.decode() + "\u2581") for token in tokens), default=0)
        case "gpt2" if {_letter(byte) for byte in range(256) if byte not in _NEVER}.issubset(
            tokens
        ):
            # A byte without a letter of its own would be left out.
            return max(_lengths(tokens, types), default=0)
    return 0


def _lengths(tokens: list[str], types: Any) -> Iterator[int]:
    """Yield how many bytes each token of GPT-2's kind stands for."""
    are_told = isinstance(types, list) and len(types) == len(tokens)
    white = "".join(map(_letter, _WHITE))
    without = str.maketrans("", "", white)
    for token, kind in zip(tokens, types if are_told else [0] * len(tokens), strict=True):
        # A letter for each byte; the others stand for themselves.
        yield len(token.translate(without)) if kind == _NORMAL else _dense(token, white)


def _dense(token: str, white: str) -> int:
    return len(token.translate(str.maketrans("", "", white)).encode())


def _letter(byte: int) -> str:
    if byte in _AS_THEY_ARE:
        return chr(byte)
    return chr(256 + sum(other not in _AS_THEY_ARE for other in range(byte)))
