"""Whether one llama-server can load a file."""

from pathlib import Path

from heartcode_models.errors import ModelError
from heartcode_models.gguf.header import Header, read_header


def check_gguf(path: Path) -> None:
    """Read a file's header and compare its size with what its tensors need.

    Raises:
        ModelError: it cannot be read, is no GGUF, is truncated or only a part of a model.
    """
    header = read_header(str(path))
    if not header.tensors:
        raise ModelError(f"{path} holds a vocabulary and no weights; it is no whole model")
    refuse_part(header)


def refuse_part(header: Header) -> None:
    """Refuse a file that is one of several.

    Raises:
        ModelError: it is; the message says what to do.
    """
    parts = header.metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"{header.source} is one of {parts} parts; join them with llama-gguf-split first"
        )
