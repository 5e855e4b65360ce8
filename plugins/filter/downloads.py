"""What apt is about to download, for people who wait for it."""

import re
from collections.abc import Sequence

#: A home line, in bits a second.
_LINE = 50_000_000
#: 'http://deb.debian.org/debian/pool/.../x.deb' x_1.0_amd64.deb 19936 SHA256:...
_URI = re.compile(r"'[^']+' \S+ (\d+) \S*")


def apt_download(uris: Sequence[str]) -> str:
    """How much is to come and how long that may take; "" where nothing is.

    Args:
        uris: The lines of `apt-get --print-uris install`, which installs nothing. (With
            --assume-no it does, where it has nothing to ask.) What lies in apt's cache is not
            among them.
    """
    size = sum(int(found[1]) for found in map(_URI.fullmatch, uris) if found)
    if not size:
        return ""
    minutes = size * 8 / _LINE / 60
    time = "less than a minute" if minutes < 1 else f"about {minutes:.0f} min"
    return f"{size / 1e6:.1f} MB to download, {time} at {_LINE // 10**6} Mbit/s"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"apt_download": apt_download}
