"""Reload and restart: who is served by what, and that nobody is refused."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from heartcode.server import reload_files
from heartcode.server.reload_files import Order

from tests.hammer import Hammer
from tests.integration.conftest import StartExporter, StartLlamas, StartProxy, StartUpstream
from tests.integration.listening import CHAT, Listener
from tests.integration.misbehaving import one_event_then_silence, serve_two_tokens
from tests.integration.processes import APP, Proxy, counted_to, events, wait_until

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket as systemd holds it: it stays when the proxy goes."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        yield listener


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., Path]:
    """Install a version of the program: `install("second", extra_code)` makes it `current`."""

    def install(version: str, code: str = "") -> Path:
        shutil.copytree(APP, tmp_path / version, ignore=shutil.ignore_patterns("__pycache__"))
        with (tmp_path / version / "heartcode/server/wsgi.py").open("a") as module:
            module.write(
                "@application.after_request\n"
                "def _tell(response):\n"
                f"    response.headers['X-Version'] = '{version}'\n"
                f"    return response\n\n\n{code}\n"
            )
        link = tmp_path / "new"
        link.symlink_to(version)
        link.replace(tmp_path / "current")
        return tmp_path / "current"

    return install


def version_of(proxy: Proxy) -> str:
    return requests.get(f"{proxy.url}/livez", timeout=30).headers["X-Version"]


def reload(proxy: Proxy) -> None:
    done = proxy.reload()
    assert done.returncode == 0, done.stderr + proxy.stderr.read_text()
    assert done.stderr == ""


@pytest.mark.ci
def test_a_stream_counts_on_across_two_reloads_and_nobody_is_refused(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    start_exporter: StartExporter,
    slow_model: Path,
) -> None:
    (llama,) = llama_servers(1, model=slow_model, slots=4)
    proxy = start_proxy(llama.url, HEARTCODE_SLOTS="4")
    exporter = start_exporter(proxy)
    (first,) = proxy.workers()
    stream = Listener(proxy, CHAT, max_tokens=1500)
    stream.wait_for_text(" 4 ")
    with Hammer(f"{proxy.url}/livez") as hammer:
        reload(proxy)
        reload(proxy)
        hammer.wait_for_answers()
        assert first in proxy.workers()
        assert " 1499 " not in stream.text
        assert exporter.value("active_requests") == 1
        with proxy.stream(CHAT, messages=[{"role": "user", "content": "x"}], max_tokens=5) as other:
            assert len(list(events(other))) > 4
    stream.finish()
    assert stream.text == counted_to(1500)
    wait_until(lambda: first not in proxy.workers(), "the first worker has ended")
    # The second had nothing to do, and the third serves.
    wait_until(lambda: len(proxy.workers()) == 1, "the second worker has ended")
    assert exporter.value("active_requests") == 0
    done = {"endpoint": CHAT, "outcome": "completed"}
    assert exporter.value("inference_requests_total", **done) == 2
    assert proxy.stop() == 0


def test_new_code_and_new_settings_are_in_effect(
    start_upstream: StartUpstream,
    start_proxy: StartProxy,
    listening: socket.socket,
    install: Callable[..., Path],
) -> None:
    url = start_upstream(serve_two_tokens).url
    proxy = start_proxy(url, listener=listening, app=install("first"))
    master = Path(f"/proc/{proxy.process.pid}")
    for version, most in (("second", 7), ("third", 9)):
        install(version)
        proxy.env["HEARTCODE_MAX_TOKENS"] = str(most)
        reload(proxy)
        assert version_of(proxy) == version
        assert (master / "cwd").readlink().name == version
        assert proxy.post(prompt="x", max_tokens=most).status_code == 200
        assert proxy.post(prompt="x", max_tokens=most + 1).status_code == 400
    del proxy.env["HEARTCODE_MAX_TOKENS"]
    reload(proxy)
    assert proxy.post(prompt="x", max_tokens=10).status_code == 200
    assert {file.name for file in proxy.run_dir.iterdir()} == {
        "metrics",
        "proxy.json",
        "proxy.stdout",
        "proxy.stderr",
    }


def test_wrong_settings_are_named_and_change_nothing(start_proxy: StartProxy) -> None:
    proxy = start_proxy(NOWHERE)
    before = proxy.workers()
    proxy.env |= {"HEARTCODE_MAX_TOKENS": "many", "HEARTCODE_SLOTS": "0"}
    done = proxy.reload()
    assert done.returncode == 78
    assert "HEARTCODE_MAX_TOKENS=many is not a whole number" in done.stderr
    assert "HEARTCODE_SLOTS=0 is not a list" in done.stderr
    assert requests.get(f"{proxy.url}/livez", timeout=30).ok
    assert proxy.workers() == before


BROKEN = "raise RuntimeError('this is broken')"
BROKEN_IN_A_WORKER = """
import sys
if sys.modules['__main__'].__spec__.name != 'heartcode.reload':
    raise RuntimeError('broken when it counts')
"""


@pytest.mark.parametrize(
    "broken",
    [
        (BROKEN, "this is broken"),
        pytest.param(
            (BROKEN_IN_A_WORKER, "the new worker ended before it served; the one before goes on"),
            marks=pytest.mark.ci,
        ),
    ],
    ids=["found before", "found by the worker"],
)
def test_code_that_cannot_start_leaves_the_former_serving(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    slow_model: Path,
    install: Callable[..., Path],
    broken: tuple[str, str],
) -> None:
    code, told = broken
    (llama,) = llama_servers(1, model=slow_model)
    proxy = start_proxy(llama.url, app=install("good"))
    before = proxy.workers()
    stream = Listener(proxy, CHAT, max_tokens=300)
    stream.wait_for_text(" 4 ")
    install("broken", code)
    done = proxy.reload()
    assert done.returncode == 1
    assert told in done.stderr
    assert version_of(proxy) == "good"
    stream.finish()
    assert stream.text == counted_to(300)
    assert proxy.workers() == before
    install("mended")
    reload(proxy)
    assert version_of(proxy) == "mended"
    wait_until(lambda: before[0] not in proxy.workers(), "the former has ended")


def test_a_master_that_cannot_start_ends_for_systemd_to_see(
    start_proxy: StartProxy, install: Callable[..., Path]
) -> None:
    proxy = start_proxy(NOWHERE, app=install("good"))
    broken = "import sys\nassert sys.modules['__main__'].__spec__.name == 'heartcode.reload'\n"
    with (install("broken") / "gunicorn.conf.py").open("a") as module:
        module.write(broken)
    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(proxy.reload)
        assert proxy.process.wait(60) == 1
        done = reloading.result()
    assert done.returncode == 1
    assert "the proxy has ended" in done.stderr


def test_a_program_that_is_missing_leaves_the_proxy_as_it_is(start_proxy: StartProxy) -> None:
    proxy = start_proxy(NOWHERE)
    order = Order(id="x", command=["/nowhere/python"], directory="/", environment={})
    before = proxy.workers()
    reload_files.give(proxy.run_dir, order)
    proxy.process.send_signal(signal.SIGHUP)

    def error() -> str:
        state = reload_files.state(proxy.run_dir)
        return state.error if state and state.order == "x" else ""

    wait_until(lambda: bool(error()), "it is reported")
    assert "No such file or directory: '/nowhere/python'" in error()
    assert requests.get(f"{proxy.url}/livez", timeout=30).ok
    assert proxy.workers() == before
    reload(proxy)


def test_a_reload_of_another_process_is_refused(start_proxy: StartProxy) -> None:
    proxy = start_proxy(NOWHERE)
    done = proxy.reload(pid=os.getpid())
    assert done.returncode == 1
    assert "is no proxy" in done.stderr


@pytest.mark.ci
@pytest.mark.parametrize(("graceful", "last"), [("2", 8000), ("60", 800)], ids=["2", "60"])
def test_a_stop_after_a_reload_ends_the_streams_from_before(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    slow_model: Path,
    graceful: str,
    last: int,
) -> None:
    (llama,) = llama_servers(1, model=slow_model, slots=2)
    proxy = start_proxy(llama.url, HEARTCODE_GRACEFUL_TIMEOUT_S=graceful)
    stream = Listener(proxy, CHAT, max_tokens=last)
    stream.wait_for_text(" 4 ")
    # What the worker was promised counts.
    proxy.env["HEARTCODE_GRACEFUL_TIMEOUT_S"] = "1"
    reload(proxy)
    old, _ = proxy.workers()
    proxy.process.terminate()
    stream.finish()
    if graceful == "2":
        assert stream.events[-1]["error"]["code"] == "restarting"
        assert counted_to(last).startswith(stream.text)
    else:
        assert stream.text == counted_to(last)
    assert proxy.process.wait(30) == 0
    assert not Path(f"/proc/{old}").exists()


@pytest.mark.ci
def test_a_worker_that_has_retired_ends_what_takes_too_long(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    proxy = start_proxy(start_upstream(one_event_then_silence).url, HEARTCODE_REQUEST_TIMEOUT_S="4")
    (old,) = proxy.workers()
    with proxy.stream(prompt="x") as answer:
        reload(proxy)
        assert b"request_timeout" in answer.content.splitlines()[-2]
    wait_until(lambda: old not in proxy.workers(), "the old worker has ended")
    assert "graceful timeout" not in proxy.stderr.read_text()


def test_a_restart_refuses_nobody_and_streams_have_their_time(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path, listening: socket.socket
) -> None:
    (llama,) = llama_servers(1, model=slow_model)
    proxy = start_proxy(llama.url, listener=listening, HEARTCODE_GRACEFUL_TIMEOUT_S="20")
    for _ in range(2):
        stream = Listener(proxy, CHAT, max_tokens=300)
        stream.wait_for_text(" 4 ")
        with Hammer(f"{proxy.url}/livez") as hammer:
            assert proxy.stop() == 0
            proxy.start()
            hammer.wait_for_answers()
        stream.finish()
        assert stream.text == counted_to(300)


@pytest.mark.parametrize("how", ["reload", "stop"])
def test_a_request_on_an_idle_connection_is_answered_while_the_worker_ends(
    start_proxy: StartProxy, how: str
) -> None:
    proxy = start_proxy(NOWHERE)
    with requests.Session() as session, ThreadPoolExecutor(1) as threads:

        def ask() -> str:
            answer = session.get(f"{proxy.url}/livez", timeout=30)
            assert answer.status_code == 200
            return answer.headers["Connection"]

        assert ask() == "keep-alive"
        (old,) = proxy.workers()
        ending = threads.submit(proxy.reload if how == "reload" else proxy.stop)
        wait_until(lambda: ask() == "close", "the worker says that it ends")
        pools = session.adapters["http://"].poolmanager.pools  # type: ignore[attr-defined]
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118
        ending.result()
    wait_until(lambda: not Path(f"/proc/{old}").exists(), "the old worker has ended")
