"""Prints an apt source (deb822) with the sections that this host asks Debian's mirrors not for yet.

    nonfree_sources.py OWN_FILE [ETC_APT]

For each mirror and suite of Debian that apt already uses, those of contrib, non-free and
non-free-firmware that are missing, with the same options: the key that is trusted there above all,
as apt refuses two keys for one place. Prints nothing when none is missing. OWN_FILE, where the
result will lie, does not count. An error is one line on stderr, exit status 1.

Needs nothing but Python and apt. The formats are those of sources.list(5).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

WANTED = ("contrib", "non-free", "non-free-firmware")
# What these options of the one-line format are called in deb822; the others have the same name.
_LONG_NAMES = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}
_OWN_FIELDS = ("types", "uris", "suites", "components", "enabled")


class SourcesError(Exception):
    """What is wrong with apt's sources, in one line."""


@dataclass(frozen=True)
class Place:
    """One suite of one mirror and what apt asks it for."""

    uri: str
    suite: str
    components: tuple[str, ...]
    #: Further fields as deb822 has them: a text of several lines keeps them.
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> tuple[str, str]:
        """The same for the same place, however its URI is written."""
        return re.sub(r":/+", ":/", self.uri).rstrip("/"), self.suite


def one_line_places(text: str) -> Iterator[Place]:
    """The places of a file in the one-line format."""
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if not found:
            continue
        given, uri, suite, components = found.groups()
        options = dict(option.split("=", 1) for option in (given or "").split() if "=" in option)
        named = {
            _LONG_NAMES.get(name, name.title()): value.replace(",", " ")
            for name, value in options.items()
        }
        yield Place(uri, suite, tuple(components.split()), named)


def deb822_places(text: str) -> Iterator[Place]:
    """The places of a file in the deb822 format."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {
            name: value.strip(" ").rstrip("\n")
            for name, value in re.findall(r"^(\S+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        plain = {name.lower(): value.split() for name, value in fields.items()}
        if "deb" not in plain.get("types", []) or plain.get("enabled") in (["no"], ["false"]):
            continue
        options = {name: value for name, value in fields.items() if name.lower() not in _OWN_FIELDS}
        for uri in plain.get("uris", []):
            for suite in plain.get("suites", []):
                yield Place(uri, suite, tuple(plain.get("components", [])), options)


def places_in(etc_apt: Path, own_file: Path) -> Iterator[Place]:
    """Every place that apt is set up for, but for those in `own_file`."""
    for path in [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]:
        if path == own_file or not path.is_file():
            continue
        if path.suffix == ".sources":
            yield from deb822_places(path.read_text(encoding="utf-8"))
        elif path.suffix == ".list":
            yield from one_line_places(path.read_text(encoding="utf-8"))


def is_debian(place: Place, origins: Mapping[tuple[str, str], str]) -> bool:
    """Whether it is Debian's own.

    Args:
        place: The place.
        origins: Who signs which place, as far as apt has downloaded its list. Where it has not yet,
            the last part of the mirror's path decides.
    """
    last = urlsplit(place.uri).path.rstrip("/").rsplit("/", 1)[-1]
    guess = "Debian" if last in ("debian", "debian-security") else ""
    return origins.get(place.name, guess) == "Debian" and not place.uri.startswith("cdrom:")


def missing_sources(places: list[Place], origins: Mapping[tuple[str, str], str]) -> str:
    """The stanzas that are missing, in the order of apt's own.

    Raises:
        SourcesError: apt is set up for no mirror of Debian.
    """
    ours = [place for place in places if is_debian(place, origins)]
    if not any("main" in place.components for place in ours):
        raise SourcesError(
            "apt on this host is set up for no mirror of Debian. Put one into"
            " /etc/apt/sources.list.d/debian.sources (see sources.list(5))"
            " and run the playbook again."
        )
    stanzas: dict[tuple[str, str], str] = {}
    for place in ours:
        there = {part for other in ours if other.name == place.name for part in other.components}
        missing = [section for section in WANTED if section not in there]
        if "main" in place.components and missing:
            options = "".join(
                f"{name}:{'' if value.startswith(chr(10)) else ' '}{value}\n"
                for name, value in place.options.items()
            )
            stanzas[place.name] = (
                f"Types: deb\nURIs: {place.uri}\nSuites: {place.suite}\n"
                f"Components: {' '.join(missing)}\n{options}"
            )
    return "\n".join(stanzas.values())


def downloaded_origins() -> dict[tuple[str, str], str]:
    """Who signs which place, for those whose lists apt has downloaded."""
    form = "$(REPO_URI)|$(RELEASE)|$(ORIGIN)"
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Identifier: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SourcesError(f"apt-get cannot read its sources: {' '.join(done.stderr.split())}")
    rows = (line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2)  # noqa: PLR2004
    return {Place(uri, suite, ()).name: origin for uri, suite, origin in rows}


def main() -> int:
    """Ask apt and print."""
    own_file = Path(sys.argv[1])
    etc_apt = Path(sys.argv[2] if len(sys.argv) > 2 else "/etc/apt")  # noqa: PLR2004
    try:
        print(missing_sources([*places_in(etc_apt, own_file)], downloaded_origins()), end="")
    except (SourcesError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
