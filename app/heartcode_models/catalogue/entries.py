"""The catalogue of models, ``models/catalogue.toml``: reads it, checks it, finds a file in it."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from heartcode_models.errors import ModelError

MODELS = Path(__file__).parents[3] / "models"
CATALOGUE = MODELS / "catalogue.toml"

#: A GGUF's name in a directory, as the roles check it too.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*[.]gguf")
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
_QUANTISATION = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)*")
_PLACEHOLDER = "{quantisation}"
_REQUIRED = ("title", "repository", "revision", "licence")
_TEXTS = (*_REQUIRED, "file", "shape", "template")
_KNOWN = {*_TEXTS, "quantisations", "files", "context"}


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of the catalogue.

    Attributes:
        repository: ``OWNER/NAME`` on the hub.
        revision: Branch, tag or commit that the catalogue names.
        path: The file's path in the repository.
    """

    repository: str
    revision: str
    path: str

    @property
    def name(self) -> str:
        """The file's name in a directory of models."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue; `files` has a path in the repository for each quantisation."""

    name: str
    title: str
    repository: str
    revision: str
    files: Mapping[str, str]
    licence: str
    context: int
    shape: str
    template: str


class Catalogue:
    """All models by name."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    @classmethod
    def read(cls, path: Path = CATALOGUE) -> "Catalogue":
        """Read and check a catalogue.

        Raises:
            ModelError: it cannot be read, or something in it is wrong; all that is wrong is named.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: is no TOML: {error}") from None
        wrong: list[str] = []
        entries = {name: _entry(name, table, wrong) for name, table in tables.items()}
        if wrong:
            raise ModelError("\n".join(f"{path}: {line}" for line in wrong))
        return cls({name: entry for name, entry in entries.items() if entry})

    def find(self, model: str, quantisation: str) -> tuple[Entry, str, HubFile]:
        """The entry, the quantisation as the catalogue spells it, and the file.

        Raises:
            ModelError: there is no such model or quantisation; the message says which there are.
        """
        entry = self.entries.get(model.lower())
        if entry is None:
            raise ModelError(
                f"there is no model '{model}'; the catalogue has {', '.join(sorted(self.entries))}"
            )
        wanted = quantisation.upper()
        path = entry.files.get(wanted)
        if path is None:
            asked = (
                f"no quantisation '{quantisation}' of" if quantisation else "no quantisation for"
            )
            raise ModelError(f"{asked} {entry.name}; there are {', '.join(entry.files)}")
        file = HubFile(repository=entry.repository, revision=entry.revision, path=path)
        return entry, wanted, file


def _entry(name: str, table: Any, wrong: list[str]) -> Entry | None:
    """The entry, or None with the reasons added to `wrong`."""
    faults = list(_faults(name, table))
    if faults:
        wrong.extend(f"[{name}]: {fault}" for fault in faults)
        return None
    files = table.get("files") or {
        quantisation: table["file"].replace(_PLACEHOLDER, quantisation)
        for quantisation in table["quantisations"]
    }
    return Entry(
        name=name,
        files=files,
        context=table["context"],
        shape=table.get("shape", ""),
        template=table.get("template", ""),
        **{key: table[key] for key in _REQUIRED},
    )


def _faults(name: str, table: Any) -> list[str]:
    if not isinstance(table, dict):
        return ["must be a table: begin it with a line of the name in brackets"]
    faults = []
    if not _MODEL_NAME.fullmatch(name):
        faults.append("its name must be lower-case letters, digits, dots, dashes and underscores")
    if unknown := sorted(table.keys() - _KNOWN):
        faults.append(f"{', '.join(unknown)}: not known; there are {', '.join(sorted(_KNOWN))}")
    faults += [f"{key} is missing" for key in (*_REQUIRED, "context") if key not in table]
    faults += [
        f"{key} must be a text that is not empty"
        for key in _TEXTS
        if key in table and not (isinstance(table[key], str) and table[key].strip())
    ]
    if faults:
        return faults
    if not _REPOSITORY.fullmatch(table["repository"]):
        faults.append(f"repository must be OWNER/NAME, not '{table['repository']}'")
    if not _REVISION.fullmatch(table["revision"]):
        faults.append(f"revision must be a branch, tag or commit, not '{table['revision']}'")
    if type(table["context"]) is not int or table["context"] < 1:
        faults.append("context must be a whole number of tokens")
    return faults + _file_faults(table)


def _file_faults(table: Mapping[str, Any]) -> list[str]:
    pattern = "file" in table or "quantisations" in table
    if ("files" in table) == pattern or (pattern and not {"file", "quantisations"} <= set(table)):
        return ["give either file and quantisations, or files"]
    if pattern:
        names = table["quantisations"]
        if not isinstance(names, list) or not names:
            return ['quantisations must be a list: ["Q4_K_M", "Q5_K_M"]']
        if _PLACEHOLDER not in table["file"]:
            return [f"file must contain {_PLACEHOLDER}"]
        paths = {str(name): table["file"].replace(_PLACEHOLDER, str(name)) for name in names}
    else:
        paths = table["files"]
        if not isinstance(paths, dict) or not paths:
            return ['files must be a table: {Q4_K_M = "name-Q4_K_M.gguf"}']
    faults = [
        f"'{name}' is no quantisation's name, like Q4_K_M"
        for name in paths
        if not _QUANTISATION.fullmatch(name)
    ]
    return faults + [
        f"'{path}' must be the path of a .gguf file in the repository"
        for path in paths.values()
        if not _is_path(path)
    ]


def _is_path(path: object) -> bool:
    if not isinstance(path, str):
        return False
    *folders, name = path.split("/")
    return bool(FILE_NAME.fullmatch(name)) and all(
        re.fullmatch(r"\w[\w.-]*", folder) for folder in folders
    )
