"""What the endpoints of this rig work with: its settings, its backends and the way to them."""

from __future__ import annotations

from dataclasses import dataclass, field

from flask import Flask, current_app

from heartcode.admission import Limits
from heartcode.catalogue import Catalogue
from heartcode.client import Client
from heartcode.errors import ApiError
from heartcode.policy import POLICIES
from heartcode.pool import Backend, Pool
from heartcode.relay import Patience, Relay
from heartcode.settings import Settings
from heartcode.speed import Lengths, Speeds

_EXTENSION = "heartcode"


@dataclass(frozen=True, kw_only=True)
class Rig:
    """One host with its backends.

    `running` are the clients whose requests this process is serving.
    """

    settings: Settings
    pool: Pool
    catalogue: Catalogue
    relay: Relay
    running: set[Client] = field(default_factory=set)

    @classmethod
    def from_settings(cls, settings: Settings) -> Rig:
        """Set up the rig; nothing is connected yet."""
        rig_speeds = Speeds()
        backends = [
            Backend(
                url,
                avoid_s=settings.avoid_s,
                slots=slots,
                # The prior of the length of a token: how much is held need not be known better.
                host_cache_chars=round(
                    settings.host_cache_tokens / Lengths().tokens_per_char.value
                ),
                rig_speeds=rig_speeds,
            )
            for url, slots in zip(settings.backends, settings.slots_of_backends(), strict=True)
        ]
        limits = Limits(length=settings.queue_length, wait_s=settings.queue_wait_s)
        pool = Pool(backends, choose=POLICIES[settings.policy], limits=limits)
        patience = Patience(
            connect_s=settings.connect_timeout_s,
            silence_s=settings.silence_timeout_s,
            token_silence_s=settings.token_silence_timeout_s,
            ping_interval_s=settings.ping_interval_s,
        )
        relay = Relay(pool, patience=patience, max_moves=settings.max_moves)
        catalogue = Catalogue.of(pool.backends, settings.models)
        return cls(settings=settings, pool=pool, catalogue=catalogue, relay=relay)

    def refuse_if_draining(self) -> None:
        """Raise the 503 that answers everything new while the rig is being emptied.

        The sign is a file, so that it can be set twice and outlives a restart of the proxy.
        """
        if (self.settings.run_dir / "draining").exists():
            raise ApiError(503, "this rig is draining", code="draining")

    def end_requests(self) -> None:
        """Give up every client that is still being served: this process is about to end."""
        for client in tuple(self.running):
            client.give_up(ApiError(503, "the proxy is restarting", code="restarting"))


def init_app(app: Flask, rig: Rig) -> None:
    """Let the endpoints of `app` find the rig."""
    app.extensions[_EXTENSION] = rig


def current_rig() -> Rig:
    """Return the rig of the app that serves this request."""
    rig: Rig = current_app.extensions[_EXTENSION]
    return rig
