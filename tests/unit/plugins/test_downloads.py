"""What people are told before apt downloads what takes a while."""

import pytest

from plugins.filter.downloads import apt_download

POOL = "http://deb.debian.org/debian/pool/non-free/n"


def uri(name: str, size: int) -> str:
    """A line of `apt-get --print-uris`."""
    return (
        f"'{POOL}/{name}_1.0-1%2bdeb12u1_amd64.deb' {name}_1.0-1+deb12u1_amd64.deb {size} SHA256:0a"
    )


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([300_000_000, 140_400_000], "440.4 MB to download, about 1 min at 50 Mbit/s"),
        ([2_147_000_000], "2147.0 MB to download, about 6 min at 50 Mbit/s"),
        ([19_936, 40_000], "0.1 MB to download, less than a minute at 50 Mbit/s"),
        ([], ""),
    ],
)
def test_it_is_said_how_much_comes_and_how_long_that_may_take(sizes: list[int], told: str) -> None:
    lines = [uri(f"package{number}", size) for number, size in enumerate(sizes)]
    assert apt_download(["Reading package lists...", *lines, ""]) == told
