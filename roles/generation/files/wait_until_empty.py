"""Waits until a rig's proxy works on no request: python3 - METRICS_URL SECONDS.

Says how that went, and ends with 0 also when the time is over: what runs then is the caller's to
care for.
"""

from __future__ import annotations

import sys
import time
import urllib.request

#: Seconds between two looks, and looks in a row that must find nothing: a request that was taken
#: just before the rig was emptied is counted a moment later.
PAUSE_S = 0.5
LOOKS = 3


def running(url: str) -> int:
    """Return how many requests the proxy works on; raise OSError if nobody can tell."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - of this host
        text = answer.read().decode()
    return int(sum(float(line.split()[-1]) for line in text.splitlines() if is_count(line)))


def is_count(line: str) -> bool:
    """Return whether a line has a value of the gauge."""
    return line.startswith(("active_requests ", "active_requests{"))


def main() -> None:
    """Wait."""
    url, seconds = sys.argv[1], float(sys.argv[2])
    start = time.monotonic()
    empty = left = 0
    while empty < LOOKS:
        try:
            left = running(url)
        except OSError as error:
            print(f"nobody could tell whether requests run ({error}), so none was waited for")
            return
        empty = empty + 1 if left == 0 else 0
        if left and time.monotonic() - start >= seconds:
            print(f"{left} requests ran still after {seconds:g} s")
            return
        time.sleep(PAUSE_S)
    print(f"no request ran any more after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
