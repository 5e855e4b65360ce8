"""The longest token of a vocabulary, by which tokens are counted from below."""

from pathlib import Path

import pytest
from gguf import GGUFWriter
from heartcode_models.gguf.vocabulary import longest_token_bytes

NORMAL, USER_DEFINED = 1, 4


def byte_letters() -> list[str]:
    """Return the letters that GPT-2 writes bytes with, as its own program has them."""
    same = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [256 + number for number in range(256 - len(same))]
    return [chr(code) for code in (*same, *others)]


def longest(path: Path, kind: str, tokens: list[str], types: list[int] | None = None) -> int:
    """Write a file with this vocabulary alone, and ask."""
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    if types is not None:
        writer.add_token_types(types)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return longest_token_bytes(path)


@pytest.mark.parametrize(
    ("tokens", "bytes_of_longest"),
    [
        (["a", "\u2581word", "<s>"], 4),
        # White space is not counted, whatever it is written with.
        (["a", "\u2581" * 16, "\n\n\n\n \t"], 1),
        (["a", "\u00e9\u20ac"], 5),
    ],
)
def test_sentencepiece(tmp_path: Path, tokens: list[str], bytes_of_longest: int) -> None:
    # More than a short array, which would be kept anyway.
    many = [f"x{number % 10}" for number in range(2000)] if bytes_of_longest > 1 else []
    assert longest(tmp_path / "m.gguf", "llama", [*tokens, *many]) == bytes_of_longest


def test_gpt_2_s_letters_are_bytes(tmp_path: Path) -> None:
    letters = byte_letters()
    space, newline = "\u0120", "\u010a"
    tokens = [*letters, f"{space}word", space * 64 + newline, "\u00c3\u00a9\u00c3\u00a9\u00c3"]
    types = [NORMAL] * len(tokens)
    assert longest(tmp_path / "m.gguf", "gpt2", tokens, types) == 5
    # What is taken literally has the bytes of its own text.
    assert longest(tmp_path / "n.gguf", "gpt2", tokens, [*types[:-1], USER_DEFINED]) == 10
    assert longest(tmp_path / "o.gguf", "gpt2", tokens) == 10


def test_where_it_is_not_sure_nothing_is_told(tmp_path: Path) -> None:
    # A byte without a letter would be left out of a text.
    letters = byte_letters()
    letters.remove("a")
    assert longest(tmp_path / "m.gguf", "gpt2", letters) == 0
    for kind in ("bert", "t5", "rwkv", "gemma4"):
        assert longest(tmp_path / f"{kind}.gguf", kind, byte_letters()) == 0
