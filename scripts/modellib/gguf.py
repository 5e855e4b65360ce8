"""Whether a file is a whole GGUF that one llama-server can load."""

from pathlib import Path

from planlib.errors import PlanError
from planlib.gguf_header import read_header

from modellib.errors import ModelError


def check_gguf(path: Path) -> None:
    """Read a file's header and compare its size with what its tensors need.

    Raises:
        ModelError: it cannot be read, is no GGUF, is truncated or only a part of a model.
    """
    try:
        header = read_header(str(path))
    except PlanError as error:
        raise ModelError(str(error)) from None
    if not header.tensors:
        raise ModelError(f"{path} holds a vocabulary and no weights; it is no whole model")
    parts = header.metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(f"{path} is one of {parts} parts; join them with llama-gguf-split first")
