"""A model on the cards of two hosts: the real llama-server and the real RPC server of its build.

What it hides: the helper is on the same machine, and lends its CPU twice in two cards' place. Only
the last test puts a cable between them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from systemd.libexec import heartcode_rpc_ask as rpc
from tests.integration.conftest import StartLlamas, StartProxy
from tests.integration.listening import COMPLETIONS, Listener, assert_is_one_answer
from tests.integration.processes import (
    PATIENCE_S,
    Llama,
    Program,
    counted_to,
    free_port,
    wait_until,
)

CARDS = 2
#: As systemd starts it (IgnoreSIGPIPE): a connection that has ended is an error, and no signal.
WITHOUT_SIGPIPE = ("sh", "-c", 'trap "" PIPE; exec "$@"', "sh")
#: In the kernel's list of connections: the timer that asks a silent peer (proc(5): `tr`).
KEEP_ALIVE = "02"

StartHelper = Callable[[int], Program]


def lends(address: str, port: int) -> list[str]:
    """The command of a ggml-rpc-server as heartcode-rpc-server starts it."""
    *loader, server = shlex.split(os.environ["HEARTCODE_TEST_LLAMA_SERVER"])
    program = str(Path(server).with_name("ggml-rpc-server"))
    where = ["--host", address, "--port", str(port), "--threads", "1"]
    devices = ["--device", ",".join(["CPU"] * CARDS)]
    return [*WITHOUT_SIGPIPE, *loader, program, *where, *devices]


@pytest.fixture
def start_helper(cleanup: ExitStack, tmp_path: Path) -> StartHelper:
    """Start one at a port, and wait until it answers."""

    def start(port: int) -> Program:
        helper = Program(lends("127.0.0.1", port), name=f"rpc-{port}", directory=tmp_path)
        cleanup.callback(helper.kill)
        assert rpc.ask("127.0.0.1", port, CARDS) == ""
        return helper

    return start


def over(port: int, address: str = "127.0.0.1") -> str:
    """The options of a llama-server that has all of its layers on what is lent there."""
    devices = f"--device RPC0,RPC1 --split-mode layer --tensor-split 1,1 -ngl {10**4}"
    return f"--rpc {address}:{port} {devices}"


def lead(llama_servers: StartLlamas, helper: int, **options: Any) -> Llama:
    (leader,) = llama_servers(1, flags=over(helper), **options)
    return leader


def connections(port: int) -> list[list[str]]:
    lines = rpc.CONNECTIONS.read_text().splitlines()[1:]
    ours = (line.split() for line in lines if f":{port:04X}" in line)
    return [fields for fields in ours if fields[3] == rpc.ESTABLISHED]


def test_it_counts_across_the_seam(llama_servers: StartLlamas, start_helper: StartHelper) -> None:
    port = free_port()
    start_helper(port)
    leader = lead(llama_servers, port)
    assert leader.ask("/completion", prompt=" 7", n_predict=50, temperature=0)["content"] == (
        "".join(f" {number}" for number in range(8, 58))
    )
    assert rpc.is_held("127.0.0.1", port)
    # Both would otherwise wait for ever for a host that has lost its power.
    both = connections(port)
    assert len(both) == 2
    assert [fields[5].split(":")[0] for fields in both] == [KEEP_ALIVE] * 2


def test_a_helper_serves_one_llama_server_and_then_the_next(
    llama_servers: StartLlamas, start_helper: StartHelper
) -> None:
    port = free_port()
    start_helper(port)
    leader = lead(llama_servers, port)
    assert "has not answered" in rpc.ask("127.0.0.1", port, CARDS, limit_s=0.5)
    leader.stop()
    assert not rpc.is_held("127.0.0.1", port)
    # The question that was given up is in its queue before this one.
    assert rpc.ask("127.0.0.1", port, CARDS) == ""
    assert lead(llama_servers, port).ask("/completion", prompt=" 1", n_predict=1)["content"] == " 2"


def test_a_stream_outlives_its_helper(
    llama_servers: StartLlamas, start_helper: StartHelper, start_proxy: StartProxy, slow_model: Path
) -> None:
    port = free_port()
    helper = start_helper(port)
    leader = lead(llama_servers, port, model=slow_model)
    (other,) = llama_servers(1, model=slow_model)
    proxy = start_proxy(leader.url, other.url, HEARTCODE_POLICY="least_busy")
    streams = [Listener(proxy, COMPLETIONS, max_tokens=100) for _ in range(2)]
    for stream in streams:
        stream.wait_for_text(" 4")
    assert leader.is_generating()
    helper.kill()
    # llama.cpp ends with it at once, and says nothing to its clients.
    assert leader.process.wait(PATIENCE_S) == -signal.SIGABRT
    for stream in streams:
        stream.finish()
        assert stream.text == counted_to(100)
        assert_is_one_answer(stream.events)


def test_a_helper_that_leaves_an_idle_llama_server_is_noticed(
    llama_servers: StartLlamas, start_helper: StartHelper
) -> None:
    port = free_port()
    helper = start_helper(port)
    leader = lead(llama_servers, port)
    helper.kill()
    wait_until(lambda: not rpc.is_held("127.0.0.1", port), "the connection has ended")
    # By itself llama.cpp does not: it is asked by the next request.
    assert leader.process.poll() is None


def test_it_does_not_start_without_its_helper(tmp_path: Path, cleanup: ExitStack) -> None:
    model = os.environ["HEARTCODE_TEST_MODEL"]
    command = [*shlex.split(os.environ["HEARTCODE_TEST_LLAMA_SERVER"]), "--model", model]
    alone = Program([*command, *over(free_port()).split()], name="alone", directory=tmp_path)
    cleanup.callback(alone.kill)
    assert alone.process.wait(PATIENCE_S) == -signal.SIGABRT
    assert "Failed to connect to 127.0.0.1:" in alone.stderr.read_text()


@pytest.fixture
def cable(cleanup: ExitStack) -> tuple[str, str]:
    """Two hosts with a cable between them, as network namespaces: the helper's and the leader's."""

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, timeout=60)

    hosts = tuple(f"heartcode-{os.getpid()}-{name}" for name in ("helper", "leader"))
    for host in hosts:
        ip("netns", "add", host)
        cleanup.callback(ip, "netns", "delete", host)
    helper, leader = hosts
    ip("-n", helper, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", leader)
    for number, host in enumerate(hosts, 1):
        ip("-n", host, "address", "add", f"10.99.0.{number}/24", "dev", "cable")
        ip("-n", host, "link", "set", "cable", "up")
        ip("-n", host, "link", "set", "lo", "up")
    return helper, leader


@pytest.mark.long
def test_both_notice_a_cable_that_is_pulled(
    cable: tuple[str, str], tmp_path: Path, cleanup: ExitStack
) -> None:
    """In 20 s, and not never: nothing is said on a connection that is cut so."""
    helper, leader = (["ip", "netns", "exec", host] for host in cable)
    lent = Program([*helper, *lends("10.99.0.1", 50052)], name="helper", directory=tmp_path)
    cleanup.callback(lent.kill)
    ask = [*leader, str(Path(rpc.__file__)), "10.99.0.1:50052", "2"]
    assert subprocess.run(ask, check=False, timeout=60).returncode == 0
    server = shlex.split(os.environ["HEARTCODE_TEST_LLAMA_SERVER"])
    model = ["--model", os.environ["HEARTCODE_TEST_MODEL"], "-c", "4096", "--port", "8081"]
    options = [*over(50052, "10.99.0.1").split(), *model]
    leads = Program([*leader, *server, *options], name="leader", directory=tmp_path)
    cleanup.callback(leads.kill)

    def post(numbers: int) -> subprocess.Popen[bytes]:
        body = json.dumps({"prompt": " 1", "n_predict": numbers, "ignore_eos": True})
        url = "http://127.0.0.1:8081/completion"
        curl = [*leader, "curl", "-fs", "-o", "/dev/null", "-d", body, url]
        return subprocess.Popen(curl)

    wait_until(lambda: post(1).wait(PATIENCE_S) == 0, "it counts", every_s=0.2)
    answer = post(10**6)
    subprocess.run(["ip", "-n", cable[0], "link", "set", "cable", "down"], check=True)
    assert leads.process.wait(PATIENCE_S) == -signal.SIGABRT
    assert answer.wait(PATIENCE_S) != 0
    told = lent.stdout

    def serves_nobody() -> bool:
        text = told.read_text()
        return text.count("Client connection closed") == text.count("Accepted client connection")

    wait_until(serves_nobody, "the helper is free for the next")
