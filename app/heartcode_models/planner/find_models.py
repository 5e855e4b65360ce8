"""Finds the `Model` that a person means by a path, a URL, a nickname or a size."""

import re
from pathlib import Path

from heartcode_models.catalogue.entries import Catalogue
from heartcode_models.errors import ModelError
from heartcode_models.gguf.header import read_header
from heartcode_models.gguf.model import Model
from heartcode_models.gguf.read_model import model_of
from heartcode_models.planner.known_models import QUANTISATIONS, SHAPES, known_model, quantisations


def find_models(what: str) -> tuple[Model, ...]:
    """The files to choose from, best first: one for a GGUF, several for a built-in model.

    Args:
        what: A path, an http(s) URL, a nickname (`stheno`), a size (`8B`), a size and a
            quantisation (`8B Q4_K_M`), or the name of a file that is elsewhere and tells both.

    Raises:
        ModelError: it is none of these, or cannot be read.
    """
    if what.startswith(("http://", "https://")) or Path(what).is_file():
        return (model_of(read_header(what)),)
    size, quantisation = _read_name(what)
    if size is None or "/" in what:
        raise ModelError(
            f"'{what}' is no file, no URL and no known model. Give the path or URL of a GGUF, or"
            f" one of {', '.join([*_nicknames(), *SHAPES])}, with a quantisation:"
            " '8B Q4_K_M'."
        )
    wanted = (quantisation,) if quantisation else _offered(what)
    return tuple(known_model(size, name) for name in wanted)


def _offered(what: str) -> tuple[str, ...]:
    """The quantisations to choose from: of a model of the catalogue those that it has."""
    entry = Catalogue.read().entries.get(what.strip().lower())
    return tuple(one for one in QUANTISATIONS if not entry or one in entry.files)


def _nicknames() -> dict[str, str]:
    """The models of the catalogue whose shape is built in, and that shape."""
    entries = Catalogue.read().entries
    return {name: entry.shape for name, entry in entries.items() if entry.shape in SHAPES}


def _read_name(text: str) -> tuple[str | None, str | None]:
    words = text.lower()
    size = next((shape for name, shape in _nicknames().items() if name in words), None)
    for known in SHAPES:
        if re.search(rf"(?<![0-9.]){known.lower()}(?![a-z])", words):
            size = known
    found = re.search(r"(?<![a-z0-9])(i?q\d_[a-z0-9_]+|f16|bf16)(?![a-z0-9])", words)
    if not found:
        return size, None
    quantisation = found[1].upper()
    if quantisation not in quantisations():
        raise ModelError(
            f"'{text}': {quantisation} has no built-in sizes (there are"
            f" {', '.join(quantisations())}); give the path or URL of the GGUF"
        )
    return size, quantisation
