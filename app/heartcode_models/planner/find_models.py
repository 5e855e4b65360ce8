"""Finds the `Model` that a person means by a path, a URL, a nickname or a size."""

import re
from collections.abc import Sequence
from pathlib import Path

from heartcode_models.catalogue.entries import Catalogue
from heartcode_models.errors import ModelError
from heartcode_models.gguf.header import read_header
from heartcode_models.gguf.model import Model
from heartcode_models.gguf.read_model import model_of
from heartcode_models.planner.known_models import QUANTISATIONS, SHAPES, known_model, quantisations

_QUANTISATION = re.compile(r"(?<![a-z0-9])(i?q\d_[a-z0-9_]+|f16|bf16)(?![a-z0-9])")


def find_models(what: str) -> tuple[Model, ...]:
    """The files to choose from, best first: one for a GGUF, several for a built-in model.

    Args:
        what: A path, an http(s) URL, a nickname (`stheno`), a size (`8B`), a size and a
            quantisation (`8B Q4_K_M`), or the name of a file that is elsewhere and tells both.

    Raises:
        ModelError: it is none of these, or cannot be read.
    """
    if _is_read(what):
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


def stands_in(what: str, models: Sequence[Model]) -> tuple[str, ...]:
    """A note where a name has told no more than a size, and another model of it is planned.

    `what` is what `find_models` was given, `models` what it gave.
    """
    words = what.lower()
    size = _QUANTISATION.sub("", words).strip()
    known = any(name in words for name in (*_nicknames(), models[0].name.lower()))
    if known or size.upper() in SHAPES or _is_read(what):
        return ()
    note = (
        f"of '{what}' nothing but the size in its name is known: {models[0].name} is planned; its"
        " path or URL tells more"
    )
    return (note,)


def _is_read(what: str) -> bool:
    return what.startswith(("http://", "https://")) or Path(what).is_file()


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
    found = _QUANTISATION.search(words)
    if not found:
        return size, None
    quantisation = found[1].upper()
    if quantisation not in quantisations():
        raise ModelError(
            f"'{text}': {quantisation} has no built-in sizes (there are"
            f" {', '.join(quantisations())}); give the path or URL of the GGUF"
        )
    return size, quantisation
