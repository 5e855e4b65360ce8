"""How a host gets a model: from a mirror of the fleet, else from the hub."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from modellib.errors import SourceError
from modellib.place import Place, Verified, Wanted
from modellib.progress import Lines
from modellib.transfer import Source, Transfer


def fetch(question: Mapping[str, Any]) -> dict[str, Any]:
    """Have a file on this host, from a mirror, else from the hub.

    Args:
        question: ``directory``, ``notes`` (where `Verified` keeps its own), ``file``, ``size``,
            ``sha256``, ``mirrors`` (base URLs), ``url`` and ``token`` of the hub.

    Gives:
        ``changed``, ``from`` (a URL, or empty where the file was there), ``said``.

    Raises:
        ModelError: no source has it, or there is no room.
    """
    said = StringIO()
    progress = Lines(said)
    place = Place(
        directory=Path(question["directory"]),
        verified=Verified(Path(question["notes"])),
        progress=progress,
        transfer=Transfer(progress),
    )
    wanted = Wanted(name=question["file"], sha256=question["sha256"], size=question["size"])
    sources = [Source(url=f"{base}/{wanted.name}") for base in question["mirrors"]]
    if question["url"]:
        sources.append(Source(url=question["url"], token=question["token"]))
    if not sources and not place.holds(wanted):
        raise SourceError(f"{wanted.name} is not here as it must be, and there is no source for it")
    source = place.fetch(wanted, sources)
    return {
        "changed": source is not None,
        "from": source.url if source else "",
        "said": said.getvalue().splitlines(),
    }
