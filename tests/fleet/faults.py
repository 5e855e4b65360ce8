"""The table of faults: what befalls the fleet under load, and what it ends by its nature.

`make test-faults` goes through it; docs/reliability.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.fleet import striking
from tests.fleet.harness import Fleet, wait_for

#: Seconds after which a fleet that nobody helps serves with all of it again.
RECOVERY_S = 60.0
#: Seconds that a stream may pause beyond its usual gap between two tokens.
PAUSE_S = 5.0

Strike = Callable[[Fleet], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A line of the table.

    Attributes:
        name: For `FAULTS=name,name`.
        does: What is done.
        strike: Does it, and heals it at the end of its `with`.
        healed: How it ends; "" where the fleet does it by itself, and time counts from the strike.
        alert: Which one is at least pending while it lasts; "" where it is over before.
        ends: What it ends by its nature, "" for nothing: counted apart, and not as lost.
        pause_s: How long a stream may pause for it beyond the usual gap.
        recovery_s: How long it may take until all is as before.
        is_repeated: Whether it takes its time, and recovery counts from the last of it.
        is_quick: Whether it is a part of `make test`.
    """

    name: str
    does: str
    strike: Strike
    healed: str = ""
    alert: str = ""
    ends: str = ""
    pause_s: float = PAUSE_S
    recovery_s: float = RECOVERY_S
    is_repeated: bool = False
    is_quick: bool = False


def at_once(do: Callable[[Fleet], object]) -> Strike:
    """What is done in a moment, and healed by nobody."""

    @contextmanager
    def strike(fleet: Fleet) -> Iterator[None]:
        do(fleet)
        yield

    return strike


def command(host: str, told: str) -> Strike:
    return at_once(lambda fleet: fleet.ssh(host, told))


def there_and_back(host: str, there: str, back: str) -> Strike:
    """What one command does and another one takes back."""

    @contextmanager
    def strike(fleet: Fleet) -> Iterator[None]:
        fleet.ssh(host, there)
        try:
            yield
        finally:
            fleet.ssh(host, back)

    return strike


def kill(unit: str, host: str = "gateway") -> Strike:
    return command(host, f"systemctl kill --signal=KILL {unit}")


def kill_one(which: Callable[[Fleet], tuple[str, int]]) -> Strike:
    def do(fleet: Fleet) -> None:
        rig, number = which(fleet)
        fleet.ssh(rig, f"systemctl kill --signal=KILL heartcode-llama@{number}")

    return at_once(do)


def kill_again_and_again(fleet: Fleet) -> None:
    """The same one each time it works, as often as systemd starts it again at all."""
    rig, number = striking.working(fleet)
    unit = f"heartcode-llama@{number}.service"
    for _ in range(4):
        wait_for(lambda: fleet.state(rig, unit) == "active", "it has been started", 120)
        wait_for(lambda: striking.busy(fleet, rig, number), "it works")
        fleet.ssh(rig, f"systemctl kill --signal=KILL {unit}")
        wait_for(lambda: fleet.state(rig, unit) != "active", "it is dead")


@contextmanager
def thread_stopped(fleet: Fleet) -> Iterator[None]:
    rig, number = striking.working(fleet)
    pid = striking.main_pid(fleet, rig, f"heartcode-llama@{number}")
    with striking.held(fleet, rig, number):
        gone = lambda: striking.main_pid(fleet, rig, f"heartcode-llama@{number}") != pid  # noqa: E731
        wait_for(gone, "it is restarted", 120)
        yield


@contextmanager
def model_damaged(fleet: Fleet) -> Iterator[None]:
    """The file's head is overwritten, and one of those who have it has to read it again."""
    rig, unit = "rig1", "heartcode-llama@1.service"
    path = fleet.ssh(rig, "sed -n s/^MODEL_PATH=//p /etc/heartcode/llama/1.env")
    fleet.ssh(
        rig,
        f"cp {path} /root/whole.gguf && dd if=/dev/zero of={path} bs=64k count=1 conv=notrunc"
        f" status=none && systemctl kill --signal=KILL {unit}",
    )
    since = fleet.cursor(rig)
    try:
        wait_for(
            lambda: "ended before it was ready" in fleet.journal(rig, since, f"--unit={unit}"),
            "it has tried to start",
        )
        yield
    finally:
        fleet.ssh(rig, f"dd if=/root/whole.gguf of={path} conv=notrunc status=none")
        fleet.ssh(rig, "rm /root/whole.gguf")


@contextmanager
def card_lost(fleet: Fleet) -> Iterator[None]:
    """Its llama-server dies of it, as one does that computes on the card."""
    rig, number = "rig2", 1
    fleet.ssh(
        rig,
        f"simulated-cards lose {number} && systemctl kill --signal=KILL heartcode-llama@{number}",
    )
    try:
        sign = f"cat /run/heartcode/llama/{number}.quarantined"
        wait_for(lambda: fleet.ssh(rig, sign, check=False), "it is in quarantine", 120)
        yield
    finally:
        fleet.ssh(rig, f"simulated-cards restore {number}")


@contextmanager
def no_memory(fleet: Fleet) -> Iterator[None]:
    rig, number = striking.working(fleet)
    pid = striking.main_pid(fleet, rig, f"heartcode-llama@{number}")
    with striking.out_of_memory(striking.seen_below(fleet, rig, pid)):
        pass
    yield


@contextmanager
def rig_disk_full(fleet: Fleet) -> Iterator[None]:
    with striking.full(fleet, "rig1", "/var/log"):
        fleet.ssh("rig1", "systemctl restart systemd-journald heartcode-exporter")
        fleet.ssh("rig1", "systemctl reload heartcode && systemctl restart heartcode-llama@0")
        yield
    fleet.ssh("rig1", "systemctl restart systemd-journald")


@contextmanager
def gateway_disk_full(fleet: Fleet) -> Iterator[None]:
    reopen = "systemctl kill --kill-whom=main --signal=USR1 nginx"
    with striking.full(fleet, "gateway", "/var/log/nginx", "/var/lib/nginx", "/var/lib/prometheus"):
        fleet.ssh("gateway", f"{reopen}; systemctl restart prometheus", check=False)
        fleet.ssh("gateway", "systemctl reload nginx heartcode-relay")
        broken = lambda: fleet.state("gateway", "prometheus.service") != "active"  # noqa: E731
        wait_for(broken, "Prometheus cannot start")
        yield
    fleet.ssh("gateway", reopen)


FAULTS = (
    Fault(
        name="llama-killed-idle",
        does="llama-server that has nothing to do: `kill -9`",
        strike=kill_one(striking.idle),
    ),
    Fault(
        name="llama-killed-prompt",
        does="llama-server that reads a prompt: `kill -9`",
        strike=at_once(striking.kill_in_a_prompt),
        is_quick=True,
    ),
    Fault(
        name="llama-killed-stream",
        does="llama-server that generates: `kill -9`",
        strike=kill_one(striking.working),
    ),
    Fault(
        name="llama-killed-often",
        does="the same llama-server four times, each time as soon as it works",
        strike=at_once(kill_again_and_again),
        is_repeated=True,
        alert="HeartCodeBackendFlapping",
    ),
    Fault(
        name="llama-thread-stopped",
        does="its computing thread stands still, its HTTP threads go on (ptrace)",
        strike=thread_stopped,
        # Its streams move on after 30 s; it is judged after 45 (ADR 10), and killed and started.
        pause_s=40,
        recovery_s=75,
    ),
    Fault(
        name="model-damaged",
        does="the head of a model's file is overwritten, and its llama-server killed",
        strike=model_damaged,
        healed="the file is put back",
        alert="HeartCodeBackendDown",
    ),
    Fault(
        name="card-lost",
        does="a card is lost, and its llama-server dies of it",
        strike=card_lost,
        healed="the card answers again",
        recovery_s=90,  # who looks for it does so once a minute, give or take ten seconds
        alert="HeartCodeCardGone",
    ),
    Fault(
        name="out-of-memory",
        does="the kernel kills a llama-server for lack of memory",
        strike=no_memory,
        alert="HeartCodeHostOom",
    ),
    Fault(
        name="proxy-killed",
        does="a rig's proxy: `kill -9`",
        strike=kill("heartcode.service", "rig1"),
    ),
    Fault(
        name="proxy-restarted",
        does="a rig's proxy: `systemctl restart`",
        strike=command("rig1", "systemctl restart heartcode"),
    ),
    Fault(
        name="proxy-reloaded",
        does="a rig's proxy: `systemctl reload`",
        strike=command("rig1", "systemctl reload heartcode"),
    ),
    Fault(
        name="exporter-hung",
        does="a rig's exporter stands still (SIGSTOP)",
        strike=there_and_back(
            "rig1",
            "systemctl kill --signal=STOP heartcode-exporter",
            "systemctl kill --signal=CONT heartcode-exporter",
        ),
        healed="SIGCONT",
        alert="HeartCodeRigDown",
    ),
    Fault(
        name="relay-killed",
        does="the gateway's relay: `kill -9`",
        strike=kill("heartcode-relay.service"),
        ends="streams through it",
        is_quick=True,
    ),
    Fault(
        name="relay-restarted",
        does="the gateway's relay: `systemctl restart`",
        strike=command("gateway", "systemctl restart heartcode-relay"),
    ),
    Fault(
        name="nginx-reloaded",
        does="nginx: `systemctl reload`",
        strike=command("gateway", "systemctl reload nginx"),
    ),
    Fault(
        name="nginx-restarted",
        does="nginx: `systemctl restart`",
        strike=command("gateway", "systemctl restart nginx"),
        ends="what is not over in 5 s; who connects meanwhile is refused",
    ),
    Fault(
        name="nginx-killed",
        does="nginx, all of it: `kill -9`",
        strike=kill("nginx.service"),
        ends="all requests at that time; who connects within a second is refused",
    ),
    Fault(
        name="rig-rebooted",
        does="a rig: `systemctl reboot`",
        strike=at_once(lambda fleet: fleet.tool("reboot", "rig1")),
    ),
    Fault(
        name="rig-power-cut",
        does="a rig's power is cut",
        strike=lambda fleet: fleet.without_power("rig1"),
        healed="power",
        alert="HeartCodeHostDown",
    ),
    Fault(
        name="rig-cable-cut",
        does="a rig's cable is pulled",
        strike=lambda fleet: fleet.without_cable("rig1"),
        healed="plugged in",
        alert="HeartCodeHostDown",
    ),
    Fault(
        name="network-lossy",
        does="a rig's line loses 3 % of the packets both ways and takes 2 Mbit/s towards it",
        strike=lambda fleet: striking.bad_line(fleet, "rig1", loss_percent=3, kbit_s=2000),
        healed="the line is good again",
    ),
    Fault(
        name="network-slow",
        does="a rig's packets take 50 to 150 ms each way and overtake each other, and 1 % are lost",
        strike=lambda fleet: striking.slow_line(
            fleet, "rig1", delay_ms=100, jitter_ms=50, loss_percent=1
        ),
        healed="the line is good again",
    ),
    Fault(
        name="gateway-rebooted",
        does="the gateway: `systemctl reboot`",
        strike=at_once(lambda fleet: fleet.tool("reboot", "gateway")),
        ends="all requests at that time; who connects until it is back is refused",
    ),
    Fault(
        name="prometheus-down",
        does="Prometheus is stopped",
        strike=there_and_back("gateway", "systemctl stop prometheus", "systemctl start prometheus"),
        healed="started",
    ),
    Fault(
        name="rig-disk-full",
        does="a rig can write nothing to /var/log; its proxy is reloaded, a llama-server restarted",
        strike=rig_disk_full,
        healed="room again",
    ),
    Fault(
        name="gateway-disk-full",
        does="the gateway's nginx and Prometheus can write nothing, and are reloaded, restarted",
        strike=gateway_disk_full,
        healed="room again",
    ),
    Fault(
        name="clients-leave",
        does="240 clients leave in every phase of a request, half of them by a reset",
        strike=at_once(lambda fleet: striking.clients_leave(fleet, 10)),
    ),
    Fault(
        name="clients-slow",
        does="2 clients read 5 bytes/s of their streams, 100 write their requests so",
        strike=lambda fleet: striking.slow_clients(fleet, 2, 100),
        healed="they leave",
    ),
    Fault(
        name="connections-idle",
        does="2,000 clients connect and say nothing",
        strike=lambda fleet: striking.idle_connections(fleet, 2000),
        healed="they leave",
        is_quick=True,
    ),
    Fault(
        name="queues-full",
        does="more requests than all slots and queues take",
        strike=striking.filled_queues,
        healed="they leave",
        ends="what comes meanwhile: 429 with Retry-After",
    ),
)


def chosen(names: str) -> tuple[Fault, ...]:
    """Those that are named, with commas between them; all for "".

    Raises:
        ValueError: there is no such fault.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"FAULTS: no {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in wanted) or FAULTS
