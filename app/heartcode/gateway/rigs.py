"""The rigs behind a gateway, and which of them goes on with a stream.

    rigs = Rigs(settings)
    first = rigs.at("127.64.1.2")            # whom nginx has chosen
    budget = rigs.budget(first, model="stheno")
    lease = budget.next_lease()              # that one; after `has_failed()` another one

Which rig a request goes to is nginx's choice, and so is where it goes when that one refuses it
(ADR 17). Only what nginx cannot move any more is moved here.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from heartcode.errors import ApiError
from heartcode.routing.backend import Backend
from heartcode.routing.lease import Lease
from heartcode.routing.request_info import Overflow
from heartcode.settings import Settings
from heartcode.upstream.exchange import BackendError, Reason

# What says nothing against a rig.
_NO_FAULT = (Reason.BUSY, Reason.ERROR)
_NOT_COUNTED = (Reason.BUSY, Reason.STOPPED)


class RigLease(Lease):
    """A rig that works on one request.

    Attributes:
        overflow: whether it may say that it has no slot free; None: as the client's request says.
    """

    def __init__(self, rig: Backend, overflow: Overflow | None = None) -> None:
        super().__init__(rig)
        self.overflow = overflow

    def has_answered(self, status: int) -> None:
        """Note that an answer has begun."""
        if status == HTTPStatus.OK:
            self.backend.has_answered()


class Rigs:
    """All rigs that a gateway knows, and the addresses at which nginx asks for them."""

    def __init__(self, settings: Settings) -> None:
        self._max_moves = settings.max_moves
        self.all = tuple(Backend(url) for url in settings.backends)
        self._by_address = dict(zip(settings.rig_addresses, self.all, strict=True))
        models = settings.rig_models or ((),) * len(self.all)
        self._models = dict(zip(self.all, map(frozenset, models), strict=True))

    def at(self, address: str) -> Backend | None:
        """Return the rig that is asked for at an address of this host; None for another address."""
        return self._by_address.get(address)

    def having(self, model: str) -> list[Backend]:
        """Return the rigs that have a model; those of which nothing is known are among them."""
        return [rig for rig in self.all if not self._models[rig] or model in self._models[rig]]

    def budget(self, first: Backend, *, model: str) -> RigBudget:
        """Return what leases rigs to one request."""
        others = [rig for rig in self.having(model) if rig is not first]
        return RigBudget(first, [*others, first], max_moves=self._max_moves)


class RigBudget:
    """Leases one rig after the other to a request: nginx's choice, and others when that fails.

    Each time that a rig is lost all others are asked for a free slot, those first that work and
    have the fewest requests. Who has none is asked once more, and waited for. Last comes the lost
    one itself, as a proxy that was killed is back within seconds.

    Attributes:
        rig: the one that works on the request, or did last; None before the first.
        failure: what was wrong with the last one that did; None before the first failure.
        moves: how many rigs it was moved to after the first.
    """

    def __init__(self, first: Backend, rigs: Sequence[Backend], *, max_moves: int) -> None:
        self._rigs = rigs
        self._may_fail = max_moves + 1
        self.rig: Backend | None = None
        self.failure: Reason | None = None
        self.moves = -1
        self._left: list[tuple[Backend, Overflow | None]] = [(first, None)]
        self._busy: list[Backend] = []
        self._lost: Backend | None = None
        self._works = False

    def next_lease(self) -> RigLease:
        """Lease the next rig.

        Raises:
            ApiError: when there is none.
        """
        if self._may_fail <= 0:
            raise self.lost()
        if self._busy and all(rig is self._lost for rig, _ in self._left):
            fewest = min(self._busy, key=_load)
            self._busy.clear()
            self._left.append((fewest, Overflow.NEVER))
        if not self._left:
            raise self.lost()
        # As they are now, not as they were when the first one was chosen.
        self._left.sort(key=lambda each: (each[0] is self._lost, _load(each[0])))
        self.rig, overflow = self._left.pop(0)
        self.moves += 1
        return RigLease(self.rig, overflow)

    def works(self) -> None:
        """Note that the rig has begun to answer: when it is lost, all others are asked anew."""
        self._works = True

    def has_failed(self, error: BackendError) -> Reason:
        """Note that the last rig failed with `error`; return what was wrong with it."""
        reason, rig = error.reason, self.rig
        if rig is None:
            raise RuntimeError("no rig was asked")
        if reason not in _NO_FAULT:
            rig.has_failed(reason.value)
        if reason not in _NOT_COUNTED:
            self._may_fail -= 1
        if self._works or self.failure is None:
            self._works = False
            self.failure = reason
            self._busy.clear()
            self._lost = rig
            self._left = [(each, Overflow.WHEN_BUSY) for each in self._rigs if each is not rig]
            self._left.append((rig, Overflow.NEVER))  # whatever has become of its slots
        elif reason is Reason.BUSY:
            self._busy.append(rig)
        return reason

    def lost(self) -> ApiError:
        """Return the error for a request that no rig could serve."""
        why = "" if self.failure is None else f" ({self.failure.value})"
        return ApiError(502, f"the rig failed{why}", code="rig_failed")


def _load(rig: Backend) -> tuple[bool, int]:
    return rig.avoided, len(rig.at_work)
