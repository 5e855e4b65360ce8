"""What stands behind the gateway: whole rigs, or stand-ins that keep what they were asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.integration.misbehaving import Connection, Request, Upstream
from tests.integration.processes import Exporter, Llama, Proxy

SLOTS = 2


class Rig:
    """A rig's proxy and exporter, with one real llama-server that has the counting model.

    It hides the second card, and what systemd does: nothing is started again.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.directory = directory / name
        self.llama = Llama(self.directory, slots=SLOTS, name="counting")
        self.proxy = proxy_of(self.directory, self.llama)
        self.port = self.proxy.port
        self.exporter = Exporter(self.directory, self.proxy.env)

    def kill(self) -> None:
        for program in (self.exporter, self.proxy, self.llama):
            program.kill()

    def active(self) -> float:
        """How many requests it has taken in and not answered."""
        return self.exporter.value("active_requests")

    def queued(self) -> float:
        return self.exporter.value("inference_queue_depth")

    @contextmanager
    def draining(self) -> Iterator[None]:
        sign = self.directory / "draining"
        sign.touch()
        try:
            yield
        finally:
            sign.unlink()


def proxy_of(directory: Path, llama: Llama, *, queue: int = 64) -> Proxy:
    """Start a rig's proxy, which does not take a llama-server that stands still for a hang."""
    return Proxy(
        directory,
        [llama.url],
        HEARTCODE_MODEL="counting",
        HEARTCODE_SLOTS=str(SLOTS),
        HEARTCODE_QUEUE_LENGTH=str(queue),
        HEARTCODE_SUSPECT_S="600",
        HEARTCODE_TOKEN_SILENCE_TIMEOUT_S="600",  # noqa: S106
        HEARTCODE_PROBE_TIMEOUT_S="600",
    )


@contextmanager
def standing_still(rigs: Iterable[Rig]) -> Iterator[None]:
    """No llama-server computes anything meanwhile."""
    with ExitStack() as undo:
        for rig in rigs:
            undo.callback(rig.llama.go_on)
            rig.llama.hang()
        yield


def say_yes(connection: Connection, _: Request) -> None:
    """Answer as a rig that has a free slot, whatever it is asked.

    It hides that a rig may be busy, and that it looks at what it is sent: this is for tests of whom
    nginx asks, with what, and who gets past it.
    """
    connection.answer("200 OK", b'{"object": "chat.completion", "choices": []}')


def tell_all(connection: Connection, _: Request) -> None:
    """Answer as Prometheus does, with the headers that it has for web pages of other origins.

    It hides whether Prometheus understands the question and what it knows; the fleet's tests ask.
    """
    connection.answer(
        "200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: GET, POST\r\n"
        "Access-Control-Allow-Headers: Authorization\r\nAccess-Control-Expose-Headers: Date\r\n"
        "Vary: Origin",
        b'{"status": "success", "data": {"result": []}}',
    )


def ports(rigs: Iterable[Rig | Upstream]) -> list[int]:
    return [rig.port for rig in rigs]
