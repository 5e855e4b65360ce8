"""heartcode_rpc_ask.py and those who ask it, with a server that speaks as llama.cpp's does.

What it hides: it serves each client at once. The real one is in tests/integration/test_over_rigs.py
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from systemd.libexec import heartcode_rpc_ask as rpc

LIBEXEC = Path(__file__).parents[3] / "systemd/libexec"
HELLO = bytes([14]) + struct.pack("<Q", 24) + bytes(24)
COUNT = bytes([15]) + struct.pack("<Q", 0)


class Helper:
    """Answers HELLO and DEVICE_COUNT with what it is told."""

    def __init__(self, version: bytes, count: int) -> None:
        self._hello = struct.pack("<Q", len(version)) + version
        self._count = struct.pack("<QI", 4, count)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.endpoint = f"127.0.0.1:{self.port}"
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.asked += 1
            # One that does not like the answer ends the connection.
            with suppress(OSError), connection, connection.makefile("rb") as said:
                if said.read(len(HELLO)) == HELLO:
                    connection.sendall(self._hello)
                if said.read(len(COUNT)) == COUNT:
                    connection.sendall(self._count)

    def stop(self) -> None:
        # Closing alone would leave a thread in accept() and the port open.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def version(major: int = rpc.MAJOR, minor: int = rpc.MINOR) -> bytes:
    return bytes([major, minor, 0, 0]) + bytes(24)


@pytest.fixture
def helper() -> Iterator[Helper]:
    one = Helper(version(), 2)
    yield one
    one.stop()


def run(
    program: str, *arguments: str, libexec: Path = LIBEXEC, **variables: str
) -> tuple[int, str]:
    done = subprocess.run(
        [libexec / program, *arguments],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def test_it_lends_what_is_expected(helper: Helper) -> None:
    assert run("heartcode_rpc_ask.py", helper.endpoint, "2") == (0, "")


def test_it_lends_another_number_of_cards(helper: Helper) -> None:
    said = f"no cards are lent at {helper.endpoint}: it lends 2 instead of 3; deploy both hosts"
    assert run("heartcode_rpc_ask.py", helper.endpoint, "3") == (rpc.NO, said)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (version(major=rpc.MAJOR + 1), f"it speaks version {rpc.MAJOR + 1}.0.0 of llama.cpp's RPC"),
        (version(minor=rpc.MINOR + 1), f"it speaks version {rpc.MAJOR}.{rpc.MINOR + 1}.0"),
        (bytes(3), "it answers 3 bytes instead of 28"),
    ],
)
def test_another_llama_cpp_is_told(answer: bytes, why: str) -> None:
    other = Helper(answer, 2)
    assert why in rpc.ask("127.0.0.1", other.port, 2)
    other.stop()


def test_nobody_is_there() -> None:
    assert rpc.ask("127.0.0.1", closed_port(), 2, limit_s=0) == "Connection refused"


def test_one_that_is_just_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    asked: list[float] = []

    def starts(pause_s: float) -> None:
        asked.append(pause_s)
        late = Helper(version(), 2)
        monkeypatch.setattr(
            rpc, "try_once", lambda _h, _p, cards, s: once("127.0.0.1", late.port, cards, s)
        )

    once = rpc.try_once
    monkeypatch.setattr(time, "sleep", starts)
    assert rpc.ask("127.0.0.1", port, 2) == ""
    assert asked == [rpc.PAUSE_S]


def test_one_that_serves_another_client_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert (
            rpc.ask("127.0.0.1", busy.getsockname()[1], 2, limit_s=0)
            == "it has not answered for 0 s"
        )


def test_one_that_answers_byte_by_byte_is_not_waited_for_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    answer = struct.pack("<Q", 28) + version()

    class Slow(socket.socket):
        """Takes 5 s for each byte."""

        def sendall(self, *_: object) -> None: ...

        def recv(self, *_: object) -> bytes:
            limit = self.gettimeout()
            assert limit is not None
            if limit < 5:
                now[0] += limit
                raise TimeoutError
            now[0] += 5
            return answer[int(now[0]) // 5 - 1 :][:1]

    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: Slow())
    assert rpc.ask("127.0.0.1", 1, 2) == "it has not answered for 30 s"
    assert now[0] == 30


@pytest.mark.parametrize("answer", [b"", b"\x01", struct.pack("<Q", 28), b"HTTP/1.1 400 \r\n\r\n"])
def test_one_that_answers_something_else_or_ends_is_told(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        said = rpc.ask("127.0.0.1", server.getsockname()[1], 2, limit_s=0)
    assert said.startswith("it answers " if len(answer) > 8 else "it ends the connection")


def test_a_connection_is_held_until_one_of_them_ends_it(helper: Helper) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not rpc.is_held("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            assert rpc.is_held("127.0.0.1", port)
            accepted.close()
            assert not rpc.is_held("127.0.0.1", port)
    assert run("heartcode_rpc_ask.py", helper.endpoint, "held")[0] == rpc.NO


def test_a_wrong_call_says_how() -> None:
    done = subprocess.run(
        [LIBEXEC / "heartcode_rpc_ask.py", "rig2"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr[:6]) == (1, "usage:")


# --- who asks it --------------------------------------------------------------------------------


def test_a_helper_is_asked_once_for_all_of_its_cards(helper: Helper) -> None:
    cards = "GPU-a@rig2+GPU-b@rig2"
    assert run("heartcode-card", cards, HEARTCODE_RPC=f"rig2={helper.endpoint}/2") == (0, "")
    assert helper.asked == 1


def test_a_helper_that_does_not_lend_is_named() -> None:
    where = f"127.0.0.1:{closed_port()}"
    status, said = run(
        "heartcode-card", "GPU-a@rig2+cpu", "0", HEARTCODE_RPC=f"rig3=127.0.0.1:1/1 rig2={where}/1"
    )
    assert (status, said) == (
        1,
        f"GPU-a@rig2: rig2: no cards are lent at {where}: Connection refused",
    )


def test_names_that_begin_alike_are_told_apart(helper: Helper) -> None:
    known = f"rig-2=127.0.0.1:1/1 rig-2.lan=127.0.0.1:1/1 rig-2.lan.example={helper.endpoint}/2"
    cards = "GPU-a@rig-2.lan.example+GPU-b@rig-2.lan.example"
    assert run("heartcode-card", cards, "0", HEARTCODE_RPC=known) == (0, "")


def test_of_several_helpers_the_one_that_is_gone_is_named(helper: Helper) -> None:
    where = f"127.0.0.1:{closed_port()}"
    known = f"rig2={helper.endpoint}/2 rig-3.lan={where}/1"
    cards = "GPU-a@rig2+GPU-b@rig2+GPU-a@rig-3.lan+GPU-c@rig-3.lan+cpu"
    status, said = run("heartcode-card", cards, "0", HEARTCODE_RPC=known)
    assert (status, said.partition(": no ")[0]) == (1, "GPU-a@rig-3.lan: rig-3.lan")


def test_a_helper_of_which_nobody_knows_where_it_is() -> None:
    said = "GPU-a@rig2: HEARTCODE_RPC does not say where rig2 lends it"
    assert run("heartcode-card", "GPU-a@rig2", "0", HEARTCODE_RPC="rig22=127.0.0.1:1/1") == (
        1,
        said,
    )


def watch(
    tmp_path: Path, helpers: str, *, healthy: bool = True, libexec: Path = LIBEXEC
) -> tuple[int, str]:
    """Let heartcode-card-watch look, with a backend that says whether it is loaded."""
    curl = tmp_path / "bin/curl"
    curl.parent.mkdir(exist_ok=True)
    curl.write_text(f"#!/bin/sh\nexit {0 if healthy else 22}\n")
    curl.chmod(0o755)
    (tmp_path / "llama").mkdir(exist_ok=True)
    (tmp_path / "hung").mkdir(exist_ok=True)
    return run(
        "heartcode-card-watch",
        libexec=libexec,
        PATH=f"{curl.parent}:{os.environ['PATH']}",
        HEARTCODE_BACKEND="0",
        HEARTCODE_RUN_DIR=str(tmp_path),
        HEARTCODE_GPU_UUID="GPU-a@rig2+cpu",
        HEARTCODE_RPC=helpers,
    )


def test_a_backend_whose_helper_has_left_is_started_anew(tmp_path: Path) -> None:
    where = f"127.0.0.1:{closed_port()}"
    status, said = watch(tmp_path, f"rig2={where}/1")
    why = f"no cards are lent at {where}: its connection has ended"
    assert (status, said) == (1, f"<4>rig2 is gone: {why}")
    assert (tmp_path / "hung/0").exists()


def test_a_backend_of_which_nobody_can_tell_is_left_alone(tmp_path: Path) -> None:
    """As where the kernel's list cannot be read; Python ends with 1 then, and says so."""
    here = tmp_path / "libexec"
    here.mkdir()
    shutil.copy(LIBEXEC / "heartcode-card-watch", here)
    (here / "heartcode_rpc_ask.py").write_text("#!/bin/sh\necho Traceback\nexit 1\n")
    (here / "heartcode_rpc_ask.py").chmod(0o755)
    assert watch(tmp_path, "rig2=127.0.0.1:1/1", libexec=here) == (1, "")
    assert not list((tmp_path / "hung").iterdir())


@pytest.mark.parametrize("healthy", [True, False])
def test_a_backend_that_loads_or_has_its_helper_is_left_alone(
    tmp_path: Path, *, healthy: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as connection:
            if not healthy:
                connection.close()
            assert watch(tmp_path, f"rig2=127.0.0.1:{port}/1", healthy=healthy) == (1, "")
    assert not (tmp_path / "hung/0").exists()


def test_a_backend_in_quarantine_is_started_when_its_helper_is_back(
    tmp_path: Path, helper: Helper
) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/0.quarantined").touch()
    assert watch(tmp_path, f"rig2={helper.endpoint}/2") == (0, "<5>GPU-a@rig2+cpu is back")
