#!/usr/bin/python3
"""Whether a helper lends its cards.

    heartcode_rpc_ask.py ADDRESS:PORT CARDS [SECONDS]
    heartcode_rpc_ask.py ADDRESS:PORT held

The first asks it, and waits for so long, by default 30 s: a helper that has just been started loads
its driver first, and one whose former client has vanished finds that out in 20 s. The second looks
whether a llama-server of this host is connected with it. Exit status 0: yes. 3: no, with the reason
on one line. Any other one: it cannot be told.

It speaks the first two commands of llama.cpp's RPC (ggml/src/ggml-rpc/ggml-rpc.cpp). A server
serves one client at a time: it must not be asked while its llama-server runs, as it would not
answer before that ends. Needs nothing but Python, since a rig may not have the program yet.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

HELLO, DEVICE_COUNT = 14, 15
#: What this build's llama-server speaks: RPC_PROTO_MAJOR_VERSION and RPC_PROTO_MINOR_VERSION.
MAJOR, MINOR = 7, 0
#: Of a client: what it can do beside TCP. Of a server: its version, and what it can.
CAPABILITIES = bytes(24)
VERSION = struct.Struct("<BBBx24s")
COUNT = struct.Struct("<I")
COMMAND, SIZE = struct.Struct("<BQ"), struct.Struct("<Q")
#: Between two tries, seconds.
PAUSE_S = 0.5
LIMIT_S = 30.0
#: Exit status of a no. Python itself ends with 1 where a program fails.
NO = 3
#: The kernel's list of TCP connections; numbers in it are hexadecimal, addresses as they lie in
#: memory (proc(5)).
CONNECTIONS = Path("/proc/net/tcp")
ESTABLISHED = "01"


class NotLentError(Exception):
    """Why its cards cannot be used; waiting mends nothing."""


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Read so many bytes, which may come one by one, until a time of the monotonic clock."""
    got = b""
    while len(got) < size:
        connection.settimeout(_left(deadline))
        part = connection.recv(size - len(got))
        if not part:
            raise ConnectionError("it ends the connection")
        got += part
    return got


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _ask(
    connection: socket.socket,
    command: int,
    request: bytes,
    answer: struct.Struct,
    deadline: float,
) -> tuple[Any, ...]:
    """Send a command, and return the fields of its answer."""
    connection.sendall(COMMAND.pack(command, len(request)) + request)
    (size,) = SIZE.unpack(_exactly(connection, SIZE.size, deadline))
    if size != answer.size:
        raise NotLentError(
            f"it answers {size} bytes instead of {answer.size}, as no RPC server of this"
            " llama.cpp does; deploy both hosts"
        )
    return answer.unpack(_exactly(connection, size, deadline))


def try_once(host: str, port: int, cards: int, limit_s: float) -> None:
    """Ask once, and wait for the whole answer for so many seconds.

    Raises:
        NotLentError: it answers something else.
        OSError: it does not answer.
    """
    deadline = time.monotonic() + limit_s
    with socket.create_connection((host, port), timeout=limit_s) as connection:
        major, minor, patch, _ = _ask(connection, HELLO, CAPABILITIES, VERSION, deadline)
        if major != MAJOR or minor > MINOR:
            raise NotLentError(
                f"it speaks version {major}.{minor}.{patch} of llama.cpp's RPC, and this host"
                f" {MAJOR}.{MINOR}; deploy both hosts"
            )
        (count,) = _ask(connection, DEVICE_COUNT, b"", COUNT, deadline)
    if count != cards:
        raise NotLentError(f"it lends {count} instead of {cards}; deploy both hosts")


def ask(host: str, port: int, cards: int, limit_s: float = LIMIT_S) -> str:
    """Ask until it answers or the time is over; return why not, "" when it lends them."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            try_once(host, port, cards, max(PAUSE_S, deadline - time.monotonic()))
        except NotLentError as error:
            return str(error)
        except TimeoutError:
            return f"it has not answered for {limit_s:g} s"
        except OSError as error:
            why = error.strerror or str(error)
        else:
            return ""
        if time.monotonic() + PAUSE_S > deadline:
            return why
        time.sleep(PAUSE_S)


def is_held(host: str, port: int, connections: Path = CONNECTIONS) -> bool:
    """Whether a process of this host is connected with it, and neither has ended that."""
    address = int.from_bytes(socket.inet_aton(host), sys.byteorder)
    peer = f"{address:08X}:{port:04X}"
    lines = connections.read_text(encoding="ascii").splitlines()[1:]
    return any(line.split()[2:4] == [peer, ESTABLISHED] for line in lines)


def main() -> int:
    """Parse the command line and answer."""
    try:
        endpoint, what, *limit = sys.argv[1:]
        host, _, port = endpoint.rpartition(":")
        if what == "held":
            held = is_held(host, int(port))
            if not held:  # the kernel's list is read in pieces: one that is there may be missed
                time.sleep(PAUSE_S)
                held = is_held(host, int(port))
            why = "" if held else "its connection has ended"
        else:
            why = ask(host, int(port), int(what), *map(float, limit))
    except ValueError:
        sys.exit("usage: heartcode_rpc_ask.py ADDRESS:PORT CARDS [SECONDS] | ADDRESS:PORT held")
    if why:
        print(f"no cards are lent at {endpoint}: {why}")
    return NO if why else 0


if __name__ == "__main__":
    sys.exit(main())
