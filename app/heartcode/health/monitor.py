"""Monitors one backend: asks when it has to be asked, and acts when it hangs.

    monitor = Monitor(backend, pool, health_check=health_check, restart_request=restart_request)
    monitor.start()   # in the worker: a greenlet does not live through a fork
    monitor.stop()

A backend that is idle is probed: at first, when it has been idle for long, and after a failure in
growing pauses, or often where its unit has started another process. Meanwhile it is asked every few
seconds whether it is there, as it may have ended.
One that works on requests is left to them, as their answers say more; if none of them hears
anything, it is left if somebody has stopped it, and else asked whether its batches still end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from traceback import format_tb

import gevent
from gevent import Greenlet

from heartcode.health import probe
from heartcode.health.restart_request import RestartRequest
from heartcode.routing.backend import Backend
from heartcode.routing.pool import Pool
from heartcode.telemetry import log, metrics
from heartcode.upstream.exchange import BackendError, Reason

# How often a monitor looks whether there is something to do.
_TICK_S = 0.25
# How often an idle backend is asked whether it is still there, or has come up. That costs a
# millisecond.
_LOOK_S = 2.0
# How long a backend that is stopped on purpose may say nothing. One that hangs over it would until
# systemd kills it.
_STOP_S = 2.0


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """When a backend is asked.

    Attributes:
        suspect_s: how long it may work without being heard.
        timeout_s: how long it may take to answer; then it hangs.
        idle_s: how long it may be idle.
    """

    suspect_s: float
    timeout_s: float
    idle_s: float


class Monitor:
    """Looks after one backend of `pool`."""

    def __init__(
        self,
        backend: Backend,
        pool: Pool,
        *,
        health_check: HealthCheck,
        restart_request: RestartRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self._pool = pool
        self._health_check = health_check
        self._restart_request = restart_request
        self._clock = clock
        self._batch_ended = self._seen = clock()
        self._hangs = False
        self._greenlet: Greenlet[..., None] | None = None

    def start(self) -> None:
        """Begin to monitor the backend."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Monitor it no more."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a backend without its monitor is worse
                why = f"{type(error).__name__}\n{''.join(format_tb(error.__traceback__))}"
                name = self.backend.name
                log.backend_event("watch_failed", backend=name, level=logging.ERROR, why=why)
            # All at the same moments: the first one wakes the process for the others.
            gevent.sleep(_TICK_S - time.monotonic() % _TICK_S)

    def look(self) -> None:
        """Do what is to be done now; may take as long as an answer may."""
        if self.backend.is_occupied:
            return
        self._hangs = self._hangs and not self.backend.breaker.is_proven
        if self.backend.at_work:
            silent_s = self._silent_s()
            if silent_s >= _STOP_S:
                self._leave_what_is_stopped()
            if silent_s >= self._health_check.suspect_s and self.backend.at_work:
                self._ask_for_a_batch()
        elif self._is_due():
            self._ask_for_a_token()
        elif self.backend.breaker.is_proven and self._clock() - self._seen >= _LOOK_S:
            self._ask_whether_it_is_there()

    def _silent_s(self) -> float:
        began = min(lease.began for lease in self.backend.at_work)
        return self._clock() - max(self.backend.last_heard, began, self._batch_ended)

    def _leave_what_is_stopped(self) -> None:
        # A stop that goes well ends its connections by itself, within a second.
        for lease in tuple(self.backend.at_work):
            if lease.was_stopped:
                lease.give_up()

    def _is_due(self) -> bool:
        breaker = self.backend.breaker
        if breaker.known and not breaker.is_open:
            return self._clock() - self.backend.last_heard >= self._health_check.idle_s
        return not breaker.known or breaker.trial_is_due or self._may_have_come_up()

    def _may_have_come_up(self) -> bool:
        # What the process before did is no reason to wait. One that does not answer at all yet is
        # loading its model; the rest of the question is only asked of one that does.
        is_new = self.backend.breaker.is_open and self.backend.served.is_started_anew
        return is_new and self._clock() - self._seen >= _LOOK_S

    def _ask_for_a_batch(self) -> None:
        if self._is_answered(self._end_batch):
            self._batch_ended = self._clock()

    def _ask_for_a_token(self) -> None:
        lease = self._pool.take_idle(self.backend, probe.info())
        if lease is None:
            return
        # Judged before the slot is free: whoever waits for it then knows what to make of it.
        with lease:
            is_answered = self._is_answered(self._generate)
            self._seen = self._clock()
            if is_answered:
                self.backend.has_answered()

    def _ask_whether_it_is_there(self) -> None:
        # No proof that it works, and not counted: it is asked for that alone, and often.
        self._is_answered(self._be_there)
        self._seen = self._clock()

    def _be_there(self) -> str:
        probe.is_there(self.backend, timeout_s=self._health_check.timeout_s)
        return ""

    def _end_batch(self) -> str:
        probe.end_batch(self.backend, timeout_s=self._health_check.timeout_s)
        return "batch"

    def _generate(self) -> str:
        self._be_there()
        # Somebody else may be served: by a worker that is about to end, or past the proxy. Then the
        # token would have to wait, for longer than any limit.
        if probe.is_computing(self.backend, timeout_s=self._health_check.timeout_s):
            return self._end_batch()
        probe.generate_token(self.backend, timeout_s=self._health_check.timeout_s)
        return "token"

    def _is_answered(self, question: Callable[[], str]) -> bool:
        began = self._clock()
        try:
            result = question()
        except probe.LateError:
            self._count("late")
        except BackendError as error:
            self._judge(error, began)
        else:
            if result:
                self._count(result)
            return True
        return False

    def _judge(self, error: BackendError, began: float) -> None:
        if error.reason is not Reason.SILENT:
            self.backend.has_failed(str(error))
            self._count(error.reason.value)
        elif self.backend.last_heard > began:
            self._count("heard")  # somebody else was answered
        else:
            self._count(error.reason.value)
            self._has_hung()

    def _has_hung(self) -> None:
        self.backend.has_failed("it hangs")
        if not self._hangs:
            self._hangs = True
            metrics.HANGS.labels(backend=self.backend.name).inc()
            log.backend_event("hang", backend=self.backend.name, level=logging.WARNING)
        for lease in tuple(self.backend.at_work):
            lease.give_up()
        self._restart_request.ask()

    def _count(self, result: str) -> None:
        metrics.PROBES.labels(backend=self.backend.name, result=result).inc()
