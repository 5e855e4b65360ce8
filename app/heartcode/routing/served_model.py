"""What a backend serves, as it says itself, and whether that is what the settings say.

    served = ServedModel("127.0.0.1:8081", names=("stheno",), signs=UnitSigns(run_dir, 0))
    process = served.process()
    served.note(identify(host, port, timeout_s=2), process)
    served.is_other   # it gets no requests

Nothing is believed of a process that has not said it: after a failure, and when its unit has
started another process, it is asked again before it gets a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from heartcode.routing.unit_signs import UnitSigns
from heartcode.telemetry import log, metrics
from heartcode.upstream.identity import Identity

# What to do about a backend that serves something else.
ADVICE = (
    "it gets no requests; playbooks/site.yml restarts what does not run as the inventory says, and"
    " tells the proxy last: while it runs, wait for it"
)


class ServedModel:
    """The model of one backend.

    Args:
        backend: the backend's name, for logs and metrics.
        names: what its model is called, as the settings say; () for any name.
        signs: where its unit leaves its signs; None without one.
        token_bytes: the longest token of its vocabulary, see `room`; 0 if it is not known.

    Attributes:
        identity: what it has said since it came up; None before it has.
        n_ctx: the tokens of one conversation, as it said last; 0 before it has.
        is_other: whether it said last that it serves another model than the settings say.
        when_noted: what is done when it has said what it serves.
    """

    def __init__(
        self,
        backend: str,
        *,
        names: tuple[str, ...] = (),
        signs: UnitSigns | None = None,
        token_bytes: int = 0,
    ) -> None:
        self.names = names
        self.token_bytes = token_bytes
        self.identity: Identity | None = None
        self.n_ctx = 0
        self.is_other = False
        self.when_noted: Callable[[], None] = lambda: None
        self._backend = backend
        self._signs = signs
        self._process = 0
        metrics.OTHER_MODEL.labels(backend=backend).set(0)

    @property
    def is_unknown(self) -> bool:
        """Whether it has to say what it serves before it gets a request: it may be another one."""
        return self.identity is None or self.is_started_anew

    @property
    def is_started_anew(self) -> bool:
        """Whether its unit has started another process since it said what it serves."""
        return self._process != self.process()

    def process(self) -> int:
        """Return a number that is another one for each process of its unit; 0 without a unit."""
        return 0 if self._signs is None else self._signs.process()

    def kv_cache(self) -> str:
        """Return what its unit says of its KV cache, see `UnitSigns`; "" without a unit."""
        return "" if self._signs is None else self._signs.kv_cache()

    def note_unsaved(self, *, is_unsaved: bool) -> None:
        """Say whether its unit should wait before it stops, see `UnitSigns`."""
        if self._signs is not None:
            self._signs.note_unsaved(is_unsaved=is_unsaved)

    def was_stopped(self, *, within_s: float) -> bool:
        """Return whether somebody stopped it on purpose in the last `within_s` seconds."""
        return self._signs is not None and self._signs.was_stopped(within_s=within_s)

    def forget(self) -> None:
        """Believe nothing any more: it has failed, and what comes up may be another one."""
        self.identity = None

    def note(self, identity: Identity, process: int) -> None:
        """Note what it says, asked after `process()` was `process`."""
        before, was_other = self.identity, self.is_other
        self.identity, self._process, self.n_ctx = identity, process, identity.n_ctx
        self.is_other = bool(self.names) and not identity.is_called(self.names)
        is_news = before is None or str(before) != str(identity)
        if self.is_other != was_other or (self.is_other and is_news):
            self._tell(identity)
        self.when_noted()

    def _tell(self, identity: Identity) -> None:
        metrics.OTHER_MODEL.labels(backend=self._backend).set(self.is_other)
        advice = {"advice": ADVICE} if self.is_other else {}
        log.backend_event(
            "other_model" if self.is_other else "right_model",
            backend=self._backend,
            level=logging.WARNING if self.is_other else logging.INFO,
            wanted="|".join(self.names),
            serves=str(identity),
            **advice,
        )
