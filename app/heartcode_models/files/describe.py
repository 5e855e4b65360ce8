"""What file a host of the inventory asks for, and the record of what it has turned out to be."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heartcode_models.catalogue.entries import FILE_NAME, MODELS, Catalogue, HubFile
from heartcode_models.catalogue.lock import LockFile, Pin
from heartcode_models.errors import ModelError, SourceError
from heartcode_models.files.control import local_place, pinned, verified_files
from heartcode_models.files.hub import Hub
from heartcode_models.files.place import Wanted
from heartcode_models.files.progress import Lines
from heartcode_models.gguf.check import check_gguf

#: Where hosts keep models.
HOST_DIRECTORY = "/var/lib/heartcode/models"


def describe(question: Mapping[str, Any]) -> dict[str, Any]:
    """What file a host of the inventory asks for.

    Args:
        question: ``host``, its ``name`` and ``quantisation`` in the catalogue or ``file`` and
            ``src``; ``catalogue``, ``lock``, ``endpoint`` and ``token``.

    Gives:
        ``label`` for people, ``file``, ``size`` and ``sha256`` (None for a file that lies on
        the hosts already), ``src`` on this machine, ``url`` on the hub, ``licence``, and what `pin`
        records.

    Raises:
        ModelError: something in the inventory cannot be; the message names the host.
    """
    try:
        if question["name"]:
            return _of_the_catalogue(question)
        return _of_the_inventory(question)
    except ModelError as error:
        raise ModelError(f"{question['host']}: {error}") from None


def _of_the_catalogue(question: Mapping[str, Any]) -> dict[str, Any]:

    if question["src"]:
        raise ModelError(
            "model_name takes the file from the catalogue, so model_src must be empty; for a file"
            " of your own set model_file and model_src, and no model_name"
        )
    entry, quantisation, file = Catalogue.read(Path(question["catalogue"])).find(
        question["name"], question["quantisation"]
    )
    if question["file"] not in ("", file.name):
        raise ModelError(
            f"model_name {entry.name} is {file.name}, and model_file says {question['file']}; set"
            " one of the two"
        )
    hub = Hub(question["endpoint"], question["token"])
    try:
        pin, known = pinned(hub, LockFile(Path(question["lock"])), file)
    except SourceError as error:
        raise ModelError(
            f"{error} If this machine never reaches the hub: bring {file.name} here in another way,"
            f" and set model_file: {file.name} and model_src: its path, in place of model_name"
        ) from None
    return {
        "label": f"{entry.name} {quantisation}",
        "file": file.name,
        "size": pin.size,
        "sha256": pin.sha256,
        "src": _downloaded(file.name, pin.sha256, pin.size),
        "url": hub.url(file, pin.commit),
        "licence": f"{entry.licence}, see {hub.page(file)}",
        "pin": None if known else {"file": asdict(file), "pin": asdict(pin)},
    }


def _downloaded(name: str, sha256: str, size: int) -> str:
    """Where ``scripts/download_model.sh`` has put the file on this machine, if it has."""
    place = local_place(MODELS, Lines(sys.stderr))
    return str(MODELS / name) if place.holds(Wanted(name=name, sha256=sha256, size=size)) else ""


def _of_the_inventory(question: Mapping[str, Any]) -> dict[str, Any]:
    name, src = question["file"], question["src"]
    if not name:
        raise ModelError(
            "there is no model: set model_name"
            f" ({', '.join(sorted(Catalogue.read(Path(question['catalogue'])).entries))}), or"
            " model_file"
        )
    if not FILE_NAME.fullmatch(name):
        raise ModelError(
            f"model_file is '{name}'; give the name of a .gguf file without a path (the files lie"
            f" in {HOST_DIRECTORY})"
        )
    described = {"label": name, "file": name, "src": src, "url": "", "licence": "", "pin": None}
    if not src:
        return described | {"size": None, "sha256": None}
    path = Path(src)
    if not path.is_file():
        raise ModelError(
            f"model_src is '{src}', but there is no such file on the control node. Correct the"
            f' path, or set model_src to "" and put the file on the rigs as {HOST_DIRECTORY}/{name}'
        )
    check_gguf(path)

    sha256 = verified_files().sha256(path)
    return described | {"size": path.stat().st_size, "sha256": sha256}


def pin(question: Mapping[str, Any]) -> bool:
    """Record what a file of the hub has turned out to be; tells whether that was new.

    Args:
        question: ``lock`` and, as `describe` gave it, ``pin``.
    """
    file = HubFile(**question["pin"]["file"])
    return LockFile(Path(question["lock"])).put(file, Pin(**question["pin"]["pin"]))
