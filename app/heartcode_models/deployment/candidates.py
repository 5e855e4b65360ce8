"""The files that a rig may serve, as its inventory asks for them, and what is known of each."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartcode_models.cache import cache_directory
from heartcode_models.catalogue.entries import MODELS, Catalogue, Entry, HubFile
from heartcode_models.catalogue.lock import LockFile
from heartcode_models.errors import ModelError
from heartcode_models.files.control import pinned
from heartcode_models.files.hub import Hub
from heartcode_models.gguf import architectures, read_model
from heartcode_models.gguf.header import read_header
from heartcode_models.gguf.model import Model
from heartcode_models.gguf.read_model import model_of
from heartcode_models.planner.find_models import find_models
from heartcode_models.planner.known_models import SHAPES, known_model, quantisations

#: A question to scripts/model.py: name, quantisation, file and src.
Question = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One file that a backend may serve.

    Attributes:
        question: How the roles model and model_mirror are asked for it.
        file: Its name in the directory of models.
        model: What the planner knows of it, None where that cannot be told.
        unknown: Why not, for people.
    """

    question: Question
    file: str
    model: Model | None
    unknown: str = ""


class Library:
    """Where models are looked up: the catalogue, its pins, the hub, and what lies on the rig.

    Args:
        said: ``catalogue``, ``lock``, ``endpoint`` and ``token``, as scripts/model.py gets them.
        shapes: By file, what a rig says of a GGUF that lies there (`Model.as_data`), or a text that
            says why it cannot be told.
    """

    def __init__(self, said: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
        self._catalogue = Catalogue.read(Path(said["catalogue"]))
        self._lock = LockFile(Path(said["lock"]))
        self._said = said
        self._shapes = shapes

    def candidates(self, question: Question) -> tuple[Candidate, ...]:
        """The files that a question leaves to choose from, best first.

        Raises:
            ModelError: the catalogue does not have what is asked for.
        """
        if question["name"]:
            return self._of_the_catalogue(question)
        if not question["file"]:
            names = ", ".join(sorted(self._catalogue.entries))
            raise ModelError(f"there is no model: set model_name ({names}), or model_file")
        return (self._of_a_file(question),)

    def _of_the_catalogue(self, question: Question) -> tuple[Candidate, ...]:
        entry = self._catalogue.entries.get(question["name"].lower())
        wanted = [question["quantisation"]]
        if entry and not question["quantisation"]:
            wanted = list(entry.files)[::-1]  # the catalogue has the smallest first
        return tuple(self._catalogued(question, quantisation) for quantisation in wanted)

    def _catalogued(self, question: Question, wanted: str) -> Candidate:
        entry, quantisation, file = self._catalogue.find(question["name"], wanted)
        asked = {**question, "quantisation": quantisation}
        return _candidate(asked, file.name, lambda: self._model(entry, quantisation, file))

    def _model(self, entry: Entry, quantisation: str, file: HubFile) -> Model:
        """What is known of a file of the catalogue: as it is built in, else by its header."""
        if entry.shape in SHAPES and quantisation in quantisations():
            return known_model(entry.shape, quantisation)
        here = MODELS / file.name
        if here.is_file():
            return model_of(read_header(str(here)))
        hub = Hub(self._said["endpoint"], self._said["token"])
        pin, _ = pinned(hub, self._lock, file)
        return _at_the_hub(hub.url(file, pin.commit), hub.token, pin.sha256)

    def _of_a_file(self, question: Question) -> Candidate:
        return _candidate(question, question["file"], lambda: self._header(question))

    def _header(self, question: Question) -> Model:
        told = self._shapes.get(question["file"])
        if isinstance(told, Mapping):
            return Model.from_data(told)
        if question["src"] and Path(question["src"]).is_file():
            return model_of(read_header(question["src"]))
        if told:
            raise ModelError(str(told))
        return find_models(question["file"])[0]


def _candidate(question: Question, file: str, read: Callable[[], Model]) -> Candidate:
    try:
        return Candidate(question=question, file=file, model=read())
    except ModelError as error:
        return Candidate(question=question, file=file, model=None, unknown=str(error))


def _at_the_hub(url: str, token: str, sha256: str) -> Model:
    """What a file's header says: asked for once, as a second run has to know it without the hub."""
    sources = [Path(str(one.__file__)).read_bytes() for one in (read_model, architectures)]
    reader = hashlib.sha256(b"".join(sources)).hexdigest()[:8]
    note = cache_directory() / "shapes" / f"{sha256}-{reader}.json"
    # A note that was cut off is no note.
    with suppress(OSError, ValueError, TypeError):
        return Model.from_data(json.loads(note.read_text(encoding="utf-8")))
    model = model_of(read_header(url, token=token))
    with suppress(OSError):  # it costs another question
        note.parent.mkdir(parents=True, exist_ok=True)
        part = note.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(model.as_data()), encoding="utf-8")
        part.replace(note)
    return model


def by_file(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """The candidates by the names of their files; of equals the first."""
    return {one.file: one for one in reversed(candidates)}
