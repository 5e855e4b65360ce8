"""What the endpoints work with: the rig's settings, its backends and the way to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import gevent

from heartcode.client import Client
from heartcode.errors import ApiError
from heartcode.health.monitor import HealthCheck, Monitor
from heartcode.health.restart_request import DIRECTORY, RestartRequest
from heartcode.relay.ask_all import SparingQuestion
from heartcode.relay.relay import Relay, Timeouts
from heartcode.routing.admission import Limits
from heartcode.routing.backend import Backend
from heartcode.routing.breaker import Breaker
from heartcode.routing.model_registry import ModelRegistry
from heartcode.routing.policy import POLICIES
from heartcode.routing.pool import Pool, nothing_restorable
from heartcode.routing.served_model import ServedModel
from heartcode.routing.throughput import Lengths, Throughput
from heartcode.routing.unit_signs import UnitSigns
from heartcode.runtime.draining import Draining
from heartcode.settings import Settings
from heartcode.telemetry import log
from heartcode.warm.conversation_cache import ConversationCache
from heartcode.warm.conversation_cache import Limits as WarmLimits
from heartcode.warm.keeper import Keeper
from heartcode.warm.kept_speeds import KeptSpeeds
from heartcode.warm.store import Store, StoreError

_MIB = 1024 * 1024
# While /health waits for the first verdict; a probe takes tens of milliseconds.
_LOOK_AGAIN_S = 0.02
# llama-server answers /slots from the queue of its results, and looks for the clients of whole
# answers only in a second in which nothing came through there: whoever polls it blinds it.
_SLOTS_PAUSE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One host with its backends, as one process serves it.

    `running` are the clients whose requests it is serving, `slots` is what asks for the state of
    the backends' slots; `warm` keeps conversations in files, None where none are kept.
    """

    settings: Settings
    pool: Pool
    registry: ModelRegistry
    relay: Relay
    draining: Draining
    keeper: Keeper
    warm: ConversationCache | None = None
    monitors: tuple[Monitor, ...] = ()
    running: set[Client] = field(default_factory=set)
    slots: SparingQuestion = field(
        default_factory=lambda: SparingQuestion("/slots", pause_s=_SLOTS_PAUSE_S)
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> Runtime:
        """Set up the rig; nothing is connected yet."""
        rig_throughput = Throughput()
        backends = [
            Backend(
                url,
                slots=slots,
                # The prior of the length of a token: how much is held need not be known better.
                host_cache_chars=round(
                    settings.host_cache_tokens / Lengths().tokens_per_char.value
                ),
                rig_throughput=rig_throughput,
                breaker=Breaker(
                    first_pause_s=settings.probe_pause_s,
                    longest_pause_s=settings.probe_pause_max_s,
                ),
                served=ServedModel(
                    urlsplit(url).netloc,
                    names=names,
                    signs=UnitSigns(settings.run_dir, number),
                    token_bytes=token_bytes,
                ),
            )
            for number, (url, slots, names, token_bytes) in enumerate(
                zip(
                    settings.backends,
                    settings.slots_of_backends(),
                    settings.names_of_backends(),
                    settings.token_bytes_of_backends(),
                    strict=True,
                )
            )
        ]
        for backend, (prompt, decode) in zip(backends, settings.speeds_of_backends(), strict=True):
            backend.throughput.start_with(prompt=prompt, decode=decode)
        limits = Limits(length=settings.queue_length, wait_s=settings.queue_wait_s)
        warm = _warm(settings)
        pool = Pool(
            backends,
            choose=POLICIES[settings.policy],
            limits=limits,
            restoring=warm.restorable if warm is not None else nothing_restorable,
        )
        timeouts = Timeouts(
            connect_s=settings.connect_timeout_s,
            silence_s=settings.silence_timeout_s,
            token_silence_s=settings.token_silence_timeout_s,
            ping_interval_s=settings.ping_interval_s,
            identity_s=settings.status_timeout_s,
        )
        relay = Relay(pool, timeouts=timeouts, max_moves=settings.max_moves, warm=warm)
        registry = ModelRegistry.of(pool.backends, settings.models)
        return cls(
            settings=settings,
            pool=pool,
            registry=registry,
            relay=relay,
            draining=Draining(settings.run_dir),
            warm=warm,
            keeper=Keeper(pool.backends, cache=warm, speeds=_kept_speeds(settings, backends)),
            monitors=tuple(_monitors(pool, settings)),
        )

    def start(self) -> None:
        """Begin to monitor the backends, in the process that serves."""
        self.keeper.start()
        for monitor in self.monitors:
            monitor.start()

    def stop(self) -> None:
        """Monitor them no more."""
        for monitor in self.monitors:
            monitor.stop()
        self.keeper.stop()

    def retire(self) -> None:
        """Leave what is not asked for yet to another process, which takes all new requests."""
        self.keeper.retire()

    def backends_up(self, *, wait_s: float) -> int:
        """Return how many backends are known to generate, and what is asked for.

        While none is, and of some nothing is known yet because the proxy has just started, wait for
        the first verdict, `wait_s` seconds at most.
        """
        backends = self.pool.backends
        deadline = time.monotonic() + wait_s
        while not (up := sum(backend.is_up for backend in backends)):
            if all(b.breaker.known for b in backends) or time.monotonic() >= deadline:
                break
            gevent.sleep(_LOOK_AGAIN_S)
        return up

    def end_requests(self) -> None:
        """Give up every client that is still being served: this process is about to end."""
        for client in tuple(self.running):
            client.give_up(ApiError(503, "the proxy is restarting", code="restarting"))


def _warm(settings: Settings) -> ConversationCache | None:
    """Return what keeps conversations; None where there is no room, or no directory for it."""
    if not settings.warm_mib:
        return None
    try:
        store = Store.open(
            settings.warm_dir, limit_bytes=settings.warm_mib * _MIB, keep_s=settings.warm_keep_s
        )
    except StoreError as error:
        # Without it everything works as it would with a setting of 0.
        log.backend_event("warm_off", backend="", level=logging.ERROR, why=str(error))
        return None
    limits = WarmLimits(idle_s=settings.warm_idle_s, min_tokens=settings.warm_min_tokens)
    return ConversationCache(store, limits)


def _kept_speeds(settings: Settings, backends: Sequence[Backend]) -> KeptSpeeds | None:
    """Return what keeps the speeds; None where nobody has made a directory for it."""
    if not settings.learnt_dir.is_dir():
        return None
    of_each = zip(
        settings.gpu_uuids or ((),) * len(backends),
        settings.slots_of_backends(),
        settings.speeds_of_backends(),
        strict=True,
    )
    return KeptSpeeds(settings.learnt_dir, dict(zip(backends, of_each, strict=True)))


def _monitors(pool: Pool, settings: Settings) -> Iterator[Monitor]:
    health_check = HealthCheck(
        suspect_s=settings.suspect_s,
        timeout_s=settings.probe_timeout_s,
        idle_s=settings.probe_idle_s,
    )
    for number, backend in enumerate(pool.backends):
        restart_request = RestartRequest(
            settings.run_dir / DIRECTORY / str(number),
            backend=backend.name,
            pause_s=settings.revive_pause_s,
        )
        yield Monitor(backend, pool, health_check=health_check, restart_request=restart_request)
