"""How a host gets a model: from a mirror of the fleet, else from the hub."""

import time
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from heartcode_models.errors import BusyError
from heartcode_models.files.place import Place, Verified, Wanted
from heartcode_models.files.progress import Lines
from heartcode_models.files.transfer import Source, Transfer

_PAUSE_SECONDS = 1.0


def holds(question: Mapping[str, Any]) -> bool:
    """Whether this host has a file as it must be.

    Args:
        question: ``directory``, ``notes`` (where `Verified` keeps its own), ``file``, ``size``,
            ``sha256``.

    Raises:
        ModelError: the file cannot be read.
    """
    return _place(question, Lines(StringIO())).holds(_wanted(question))


def fetch(
    question: Mapping[str, Any], pause: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Have a file on this host, from a mirror, else from the hub.

    A playbook that was interrupted leaves its download at work: this waits for that one, and goes
    on where it may end.

    Args:
        question: As for `holds`, and ``mirrors`` (base URLs), ``url`` and ``token`` of the hub.
        pause: Waits for so many seconds.

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
    place = _place(question, Lines(said))
    while True:
        try:
            source = place.fetch(wanted, sources)
            break
        except BusyError:
            pause(_PAUSE_SECONDS)
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
