"""How a host gets a model: from a mirror of the fleet, else from the hub."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from heartcode_models.files.place import Place, Verified, Wanted
from heartcode_models.files.progress import Lines
from heartcode_models.files.transfer import Source, Transfer


def holds(question: Mapping[str, Any]) -> bool:
    """Whether this host has a file as it must be.

    Args:
        question: ``directory``, ``notes`` (where `Verified` keeps its own), ``file``, ``size``,
            ``sha256``.

    Raises:
        ModelError: the file cannot be read.
    """
    return _place(question, Lines(StringIO())).holds(_wanted(question))


def fetch(question: Mapping[str, Any]) -> dict[str, Any]:
    """Have a file on this host, from a mirror, else from the hub.

    Args:
        question: As for `holds`, and ``mirrors`` (base URLs), ``url`` and ``token`` of the hub.

    Gives:
        ``changed``, ``from`` (a URL, or empty where the file was there), ``said``.

    Raises:
        ModelError: no source has it, or there is no room.
    """
    said = StringIO()
    wanted = _wanted(question)
    sources = [Source(url=f"{base}/{wanted.name}", mirror=True) for base in question["mirrors"]]
    if question["url"]:
        sources.append(Source(url=question["url"], token=question["token"]))
    source = _place(question, Lines(said)).fetch(wanted, sources)
    return {
        "changed": source is not None,
        "from": source.url if source else "",
        "said": said.getvalue().splitlines(),
    }


def _wanted(question: Mapping[str, Any]) -> Wanted:
    return Wanted(name=question["file"], sha256=question["sha256"], size=question["size"])


def _place(question: Mapping[str, Any], progress: Lines) -> Place:
    return Place(
        directory=Path(question["directory"]),
        verified=Verified(Path(question["notes"])),
        progress=progress,
        transfer=Transfer(progress),
    )
