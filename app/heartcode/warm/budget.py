"""How long those whom a backend serves may wait for a file, which its one loop writes.

    if budget.allows(backend.at_work, seconds):
        ...
        budget.spend(backend.at_work, since=began)

Nobody's answer, long or short, takes more than the share longer: each is held up for a part of the
time for which it has been coming. So what ends soon is never held up at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from heartcode.routing.lease import Lease

#: Part of the time; a twentieth is promised, and files take longer than is expected of them.
SHARE = 0.04


def allows(leases: Iterable[Lease], seconds: float) -> bool:
    """Return whether all of them may be held up for `seconds` now."""
    return all(lease.held_up_s + seconds <= SHARE * lease.served_s for lease in leases)


def spend(leases: Iterable[Lease], *, since: float) -> None:
    """Note that they have been held up since then, by their clock."""
    for lease in leases:
        lease.hold_up(since)
