"""Moving a request from backend to backend, and when it has been enough."""

from __future__ import annotations

from collections.abc import Callable, Container

from heartcode.errors import NOT_AGAIN, ApiError
from heartcode.routing.backend import Backend
from heartcode.routing.lease import Lease
from heartcode.routing.pool import NO_BACKEND
from heartcode.upstream.exchange import BackendError, Reason

# One death may be chance. A request that was there at two is not given a third backend: if it is
# the cause, it would take down the rig.
_DEATHS_ENOUGH = 2
# The backend works, for others at least.
_NO_FAULT = (Reason.ERROR, Reason.OTHER_MODEL, Reason.CONTEXT)
# What says nothing against the request: it may be moved once more.
_NOT_COUNTED = (Reason.STOPPED, Reason.OTHER_MODEL, Reason.CONTEXT)


class RetryBudget:
    """Leases one backend after the other to a request, each at most once.

    One that was stopped on purpose while it worked is no death, and may be leased again.

    `take` leases a backend that is not among those tried, see `Pool.take`.

    Attributes:
        backend: the one that works on the request, or did last; None before the first.
        failure: what was wrong with the last one; None before the first failure.
    """

    def __init__(
        self, take: Callable[[Container[Backend]], Lease | None], *, max_moves: int
    ) -> None:
        self._take = take
        self._may_try = max_moves + 1
        self._tried: list[Backend] = []
        self._excluded: set[Backend] = set()
        self._deaths = 0
        self._lease: Lease | None = None
        self.failure: Reason | None = None

    @property
    def backend(self) -> Backend | None:  # noqa: D102 - an attribute for all others
        return self._tried[-1] if self._tried else None

    @property
    def moves(self) -> int:
        """How many backends it was moved to after the first."""
        return max(0, len(self._tried) - 1)

    def next_lease(self) -> Lease:
        """Lease the next backend.

        Raises:
            ApiError: 503 when no backend is there, 502 when those that are failed, 500 when the
                request may be what kills them, 429 or 504 when there is no slot for it.
            ClientGoneError: when the client left while it waited for a slot.
        """
        if self._deaths >= _DEATHS_ENOUGH:
            message, code = "backends died of this request", "request_kills_backends"
            raise ApiError(500, message, code=code, headers=NOT_AGAIN)
        if len(self._tried) >= self._may_try:
            raise self.lost()
        lease = self._take(self._excluded)
        if lease is None:
            raise self.lost()
        self._tried.append(lease.backend)
        self._excluded.add(lease.backend)
        self._lease = lease
        return lease

    def has_failed(self, error: BackendError) -> Reason:
        """Note that the last backend failed with `error`; return what was wrong with it."""
        reason = error.reason
        if self._lease is not None and self._lease.is_given_up:
            reason = Reason.SILENT  # it broke because the proxy let go of it
        if reason in (Reason.BROKEN, Reason.SILENT) and self._lease and self._lease.was_stopped:
            reason = Reason.STOPPED
        # The request may be what it cannot cope with: no reason to avoid it for others.
        if self.backend is not None and reason not in _NO_FAULT:
            self.backend.has_failed(reason.value)
        if reason in _NOT_COUNTED:
            self._may_try += 1
        if self.backend is not None and reason is Reason.STOPPED:
            self._excluded.discard(self.backend)  # it comes back, and may do then
        self.failure = reason
        if reason is Reason.BROKEN:
            self._deaths += 1
        return reason

    def lost(self) -> ApiError:
        """Return the error for a request that no backend could serve."""
        if self.failure in (Reason.BROKEN, Reason.SILENT, Reason.ERROR, Reason.STOPPED):
            message = f"the backend failed ({self.failure.value})"
            return ApiError(502, message, code="backend_failed")
        return ApiError(503, "no backend is ready", code=NO_BACKEND)
