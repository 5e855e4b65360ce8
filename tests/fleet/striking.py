"""How a fleet is struck where no command does it: threads, lines, disks, memory, clients."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import shlex
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

from tests import hold_thread
from tests.fleet.harness import GATEWAY_PORT, Fleet, wait_for
from tools.fleet.model import Fleet as Machines

#: Stops one thread, and lives on.
_HOLD = Path(hold_thread.__file__).read_text()


def main_pid(fleet: Fleet, host: str, unit: str) -> int:
    """The unit's main process as its host numbers it; 0 while it has none."""
    return int(fleet.ssh(host, f"systemctl show --value --property=MainPID {unit}"))


@contextmanager
def held(fleet: Fleet, rig: str, number: int) -> Iterator[None]:
    """A llama-server whose computing thread stands still while its HTTP threads live.

    That thread is its first one.
    """
    pid = main_pid(fleet, rig, f"heartcode-llama@{number}")
    fleet.ssh(rig, f"systemd-run --quiet --unit=held python3 -c {shlex.quote(_HOLD)} {pid}")
    try:
        stopped = f"grep -q '^State:.t' /proc/{pid}/task/{pid}/status && echo yes"
        wait_for(lambda: fleet.ssh(rig, stopped, check=False), "the thread stands still")
        yield
    finally:
        fleet.ssh(
            rig, "systemctl stop held.service; systemctl reset-failed held.service", check=False
        )


def busy(fleet: Fleet, rig: str, number: int) -> int:
    """Requests that a rig's proxy has given to a backend."""
    told = requests.get(f"http://{fleet.addresses[rig]}:8080/fleet", timeout=10).json()
    return int(told["rigs"][0]["backends"][number].get("busy") or 0)


@contextmanager
def bad_line(fleet: Fleet, host: str, *, loss_percent: int, kbit_s: int) -> Iterator[None]:
    """A host whose line loses packets both ways and is slow towards it.

    With nftables and a token bucket: many kernels come without netem.
    """
    machine = Machines.load(fleet.directory)
    assert machine is not None
    link = machine.find(host).host_link
    table = f"netdev bad_{link.replace('-', '_')}"
    drop = f"numgen random mod 100 < {loss_percent} drop"
    rules = "".join(
        f'chain {way} {{ type filter hook {way} device "{link}" priority 0; {drop}; }}\n'
        for way in ("ingress", "egress")
    )
    _run("nft", "-f", "-", told=f"table {table} {{\n{rules}}}\n")
    try:
        _run(
            *("tc", "qdisc", "add", "dev", link, "root", "tbf"),
            *("rate", f"{kbit_s}kbit", "burst", "16kb", "latency", "400ms"),
        )
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", link, "root"], check=False)
        _run("nft", "delete", "table", *table.split())


@contextmanager
def slow_line(
    fleet: Fleet, host: str, *, delay_ms: int, jitter_ms: int, loss_percent: int
) -> Iterator[None]:
    """A host whose packets take longer both ways, overtake each other, and are lost.

    Its cable is taken off the bridge and put there again through `slow_line.py`.
    """
    machines = Machines.load(fleet.directory)
    assert machines is not None
    link, bridge = machines.find(host).host_link, machines.bridge
    near, port = f"{link}n", f"{link}p"
    configured = Path("/proc/sys/net")
    mtu = Path(f"/sys/class/net/{link}/mtu").read_text().strip()
    program = Path(__file__).with_name("slow_line.py")
    options = ("--delay-ms", str(delay_ms), "--jitter-ms", str(jitter_ms))
    with ExitStack() as undo:
        veth = ("type", "veth", "peer", "name", port, "mtu", mtu)
        _run("ip", "link", "add", near, "mtu", mtu, *veth)
        undo.callback(_run, "ip", "link", "delete", near)
        (configured / f"ipv6/conf/{near}/disable_ipv6").write_text("1")
        # This machine has an address of the fleet, for which it would answer here as well.
        for each in (link, near):
            (configured / f"ipv4/conf/{each}/arp_ignore").write_text("1")
        undo.callback((configured / f"ipv4/conf/{link}/arp_ignore").write_text, "0")
        _run("ip", "link", "set", link, "nomaster")
        undo.callback(_run, "ip", "link", "set", link, "master", bridge)
        _run("ip", "link", "set", near, "up")
        _run("ip", "link", "set", port, "master", bridge, "up")
        line = undo.enter_context(
            subprocess.Popen(
                [
                    sys.executable,
                    program,
                    link,
                    near,
                    *options,
                    "--loss-percent",
                    str(loss_percent),
                ],
                stdout=subprocess.PIPE,
            )
        )
        undo.callback(line.terminate)
        assert line.stdout is not None
        assert line.stdout.readline() == b"ready\n"
        yield
        assert line.poll() is None, "the line has ended by itself"


def _run(*command: str, told: str | None = None) -> None:
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@contextmanager
def full(fleet: Fleet, host: str, *places: str) -> Iterator[None]:
    """Directories of a host in which nothing can be written.

    What lies there is hidden by a small file system that has no room: filling the real one would
    fill that of all machines, and of the one below them.
    """
    owned = "mode=$(stat -c %a {0}),uid=$(stat -c %u {0}),gid=$(stat -c %g {0})"
    for place in places:
        mount = f"mount -t tmpfs -o size=4k,{owned.format(place)} full {place}"
        fleet.ssh(host, f"{mount} && ! head -c 1M /dev/zero >{place}/.full")
    try:
        yield
    finally:
        fleet.ssh(host, "; ".join(f"umount -l {place}" for place in places))


def seen_below(fleet: Fleet, host: str, pid: int) -> int:
    """The pid on this machine of a process that its virtual host knows as `pid`."""
    machine = Machines.load(fleet.directory)
    assert machine is not None
    name = machine.find(host).machine
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            numbers = [x for x in status.read_text().splitlines() if x.startswith("NSpid:")]
            # Deeper ones have PID namespaces of their own.
            is_it = bool(numbers) and numbers[0].split()[2:3] == [str(pid)]
            if is_it and f"/{name}/" in status.with_name("cgroup").read_text():
                return int(status.parent.name)
    raise AssertionError(f"{host} has no process {pid}")


@contextmanager
def out_of_memory(pid: int) -> Iterator[None]:
    """A process of this machine that gets no more memory, until the kernel kills it."""
    group = Path(f"/sys/fs/cgroup/memory/heartcode-{pid}")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("65536")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "the kernel has killed it")
        group.rmdir()


def _request(fleet: Fleet, body: dict[str, object]) -> tuple[bytes, bytes]:
    """Head and body of a request on a raw socket."""
    sent = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(sent)}\r\nAuthorization: Bearer {fleet.key}\r\n\r\n"
    )
    return head.encode(), sent


def _counting(name: str, *, stream: bool, last: int = 3000) -> dict[str, object]:
    text = f"Count for {name}!"
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": last,
        "stream": stream,
    }


def _connect(fleet: Fleet, timeout_s: float = 30) -> socket.socket:
    return socket.create_connection((fleet.addresses["gateway"], GATEWAY_PORT), timeout_s)


def _leave(sock: socket.socket, *, rudely: bool) -> None:
    if rudely:  # a reset instead of an end
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def clients_leave(fleet: Fleet, times: int) -> None:
    """Clients that leave in every phase of a request, half of them by a reset."""
    for number, rudely, stream in itertools.product(range(times), (False, True), (False, True)):
        head, body = _request(fleet, _counting(f"leaver {number}", stream=stream))
        for sent, bytes_read in (
            (b"", 0),
            (head[:40], 0),
            (head + body[:20], 0),
            (head + body, 0),
            (head + body, 1),
            (head + body, 4000),
        ):
            sock = _connect(fleet)
            sock.sendall(sent)
            read = 0
            while stream and read < bytes_read and (more := len(sock.recv(4096))):
                read += more
            _leave(sock, rudely=rudely)


@contextmanager
def slow_clients(fleet: Fleet, streams: int, others: int) -> Iterator[None]:
    """Clients that read their streams byte by byte, and others that write their requests so."""
    head, body = _request(fleet, _counting("slow", stream=True))
    done = threading.Event()
    with ExitStack() as stack:

        def connected() -> socket.socket:
            sock = stack.enter_context(socket.socket())
            # Small, so that the far end notices soon that nobody takes anything.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.settimeout(30)
            sock.connect((fleet.addresses["gateway"], GATEWAY_PORT))
            return sock

        readers = [connected() for _ in range(streams)]
        writers = [connected() for _ in range(others)]
        for sock in readers:
            sock.sendall(head + body)

        def go_on() -> None:
            sent = 0
            while not done.wait(0.2):
                for sock in readers:
                    with contextlib.suppress(OSError):
                        sock.recv(1)
                for sock in writers:
                    with contextlib.suppress(OSError):
                        sock.send((head + body)[sent : sent + 1])
                sent += 1

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextmanager
def idle_connections(fleet: Fleet, number: int) -> Iterator[None]:
    """Clients that connect and say nothing."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(_connect(fleet))
        yield


@contextmanager
def filled_queues(fleet: Fleet, most: int = 400) -> Iterator[None]:
    """So many requests that all slots and all queues are full; their clients leave at the end."""
    with ExitStack() as stack:
        waiting = []
        for number in range(most):
            sock = stack.enter_context(_connect(fleet))
            head, body = _request(fleet, _counting(f"one of many, {number}", stream=False))
            sock.sendall(head + body)
            waiting.append(sock)

        def refused() -> bytes:
            ready, _, _ = select.select(waiting, [], [], 0)
            told = (sock.recv(4096, socket.MSG_PEEK) for sock in ready)
            return next((answer for answer in told if b"queue_full" in answer), b"")

        answer = wait_for(refused, "a request is refused as all queues are full")
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nRetry-After: " in answer
        yield


def kill_in_a_prompt(fleet: Fleet) -> None:
    """Kill a llama-server that has a request and has not generated a token of it."""
    rig, number = idle(fleet)
    with held(fleet, rig, number):
        wait_for(lambda: busy(fleet, rig, number), "it is asked")
        fleet.ssh(rig, f"systemctl kill --signal=KILL heartcode-llama@{number}")


def idle(fleet: Fleet) -> tuple[str, int]:
    """A backend that has nothing to do just now."""
    found: tuple[str, int] = wait_for(
        lambda: next((each for each in fleet.backends() if not busy(fleet, *each)), None),
        "a backend is idle",
    )
    return found


def working(fleet: Fleet) -> tuple[str, int]:
    """A backend that generates just now."""
    # CONT does nothing to who runs.
    found: tuple[str, int] = wait_for(lambda: fleet.signal_working("CONT"), "a backend works")
    return found
