"""What is added to a host's own apt sources for the driver."""

from pathlib import Path

import pytest

from roles.gpu_driver.files import nonfree_sources as nonfree

OWN = "heartcode-non-free.sources"


def added(
    etc_apt: Path, files: dict[str, str], origins: dict[tuple[str, str], str] | None = None
) -> str:
    """What is printed for a host with these files below /etc/apt."""
    for name, text in files.items():
        path = etc_apt / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    places = [*nonfree.places_in(etc_apt, etc_apt / "sources.list.d" / OWN)]
    return nonfree.missing_sources(places, origins or {})


def test_the_one_line_format(tmp_path: Path) -> None:
    text = "# none of ours\ndeb http://m.example/debian/ trixie main non-free-firmware # here\n"
    assert added(tmp_path, {"sources.list": text}) == (
        "Types: deb\nURIs: http://m.example/debian/\nSuites: trixie\nComponents: contrib non-free\n"
    )


def test_the_options_of_a_line_go_along(tmp_path: Path) -> None:
    text = (
        "deb [arch=amd64,i386 signed-by=/k.gpg check-valid-until=no] http://m/debian trixie main\n"
    )
    lines = added(tmp_path, {"sources.list": text}).splitlines()
    assert lines[4:] == [
        "Architectures: amd64 i386",
        "Signed-By: /k.gpg",
        "Check-Valid-Until: no",
    ]


def test_every_suite_of_every_mirror_in_deb822(tmp_path: Path) -> None:
    text = (
        "Types: deb deb-src\nURIs: http://m/debian\n# a comment\n"
        "Suites: trixie trixie-updates\nComponents: main\nSigned-By: /k.gpg\n"
        "\n"
        "Types: deb\nURIs: http://m/debian-security\nSuites: trixie-security\n"
        "Components: main\n"
    )
    stanzas = added(tmp_path, {"sources.list.d/debian.sources": text}).split("\n\n")
    assert [stanza.splitlines()[1:3] for stanza in stanzas] == [
        ["URIs: http://m/debian", "Suites: trixie"],
        ["URIs: http://m/debian", "Suites: trixie-updates"],
        ["URIs: http://m/debian-security", "Suites: trixie-security"],
    ]
    assert [stanza.count("Signed-By: /k.gpg") for stanza in stanzas] == [1, 1, 0]


def test_a_key_within_the_source_goes_along_as_it_is(tmp_path: Path) -> None:
    key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n -----END-----\n"
    text = f"Types: deb\nURIs: http://m/debian\nSuites: trixie\nComponents: main\n{key}"
    assert added(tmp_path, {"sources.list.d/debian.sources": text}).endswith(
        f"free-firmware\n{key}"
    )


@pytest.mark.parametrize(
    "other",
    [
        "deb http://m/debian trixie contrib non-free non-free-firmware\n",
        "deb http://m/debian/ trixie main contrib non-free non-free-firmware\n",
    ],
)
def test_what_another_file_has_is_not_added(tmp_path: Path, other: str) -> None:
    files = {
        "sources.list": "deb http://m/debian trixie main\n",
        "sources.list.d/other.list": other,
    }
    assert added(tmp_path, files) == ""


def test_our_own_file_does_not_count(tmp_path: Path) -> None:
    files = {
        "sources.list": "deb http://m/debian trixie main\n",
        f"sources.list.d/{OWN}": (
            "Types: deb\nURIs: http://m/debian\nSuites: trixie\n"
            "Components: contrib non-free non-free-firmware\n"
        ),
    }
    assert "Components: contrib non-free non-free-firmware" in added(tmp_path, files)


def test_other_people_s_repositories_are_left_alone(tmp_path: Path) -> None:
    files = {
        "sources.list": "deb http://m/debian trixie main\n",
        "sources.list.d/a.list": "deb http://other.example/debian trixie main\n",
        "sources.list.d/b.list": "deb http://other.example/apt stable main\n",
        "sources.list.d/c.list": "deb cdrom:[Debian 13]/ trixie main\n",
        "sources.list.d/off.sources": (
            "Enabled: no\nTypes: deb\nURIs: http://off/debian\nSuites: trixie\nComponents: main\n"
        ),
    }
    origins = {("http:/other.example/debian", "trixie"): "Somebody"}
    text = added(tmp_path, files, origins)
    assert [line for line in text.splitlines() if line.startswith("URIs")] == [
        "URIs: http://m/debian"
    ]


def test_a_mirror_with_another_path_is_known_by_who_signs_it(tmp_path: Path) -> None:
    files = {"sources.list": "deb mirror+file:///etc/apt/mirrors.txt trixie main\n"}
    origins = {("mirror+file:/etc/apt/mirrors.txt", "trixie"): "Debian"}
    assert "URIs: mirror+file:///etc/apt/mirrors.txt\n" in added(tmp_path, files, origins)


def test_a_host_without_a_mirror_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(nonfree.SourcesError, match="set up for no mirror of Debian"):
        added(tmp_path, {"sources.list": "deb http://other.example/apt stable main\n"})
