from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from heartcode_models.demo import counting

from tests.integration.misbehaving import Upstream
from tests.integration.processes import Exporter, Llama, Proxy

StartProxy = Callable[..., Proxy]
StartUpstream = Callable[..., Upstream]
StartExporter = Callable[[Proxy], Exporter]
StartLlamas = Callable[..., list[Llama]]


@pytest.fixture(autouse=True, scope="session")
def sigint_ends_programs() -> None:
    """Let SIGINT have an effect on the programs under test.

    What a shell has started in the background ignores it, and so would all of its children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_upstream(cleanup: ExitStack) -> StartUpstream:
    return lambda behave, **options: cleanup.enter_context(Upstream(behave, **options))


@pytest.fixture
def start_proxy(cleanup: ExitStack, tmp_path: Path) -> StartProxy:
    """Start the proxy: `start_proxy(backend_url, ..., HEARTCODE_X="value")`.

    It has probed its backends, unless `awaited` is false.
    """
    return _proxies(cleanup, tmp_path)


def _proxies(cleanup: ExitStack, directory: Path) -> StartProxy:
    def start(*backends: str, **options: Any) -> Proxy:
        proxy = Proxy(directory / "run", list(backends), **options)
        cleanup.callback(proxy.kill)
        return proxy

    return start


@pytest.fixture
def start_exporter(cleanup: ExitStack) -> StartExporter:
    def start(proxy: Proxy) -> Exporter:
        exporter = Exporter(proxy.run_dir, proxy.env)
        cleanup.callback(exporter.kill)
        return exporter

    return start


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About a hundred tokens a second: nothing ends before it is killed."""
    path = tmp_path_factory.mktemp("model") / "slow.gguf"
    counting.write_model(path, dead_weight_mib=64)
    return path


@pytest.fixture
def llama_servers(cleanup: ExitStack, tmp_path: Path) -> StartLlamas:
    """Start real llama-servers: `llama_servers(2, model=path, slots=20)`."""
    return _llamas(cleanup, tmp_path)


def _llamas(cleanup: ExitStack, directory: Path) -> StartLlamas:
    def start(how_many: int, **options: Any) -> list[Llama]:
        started = []
        for _ in range(how_many):
            llama = Llama(directory, **options)
            cleanup.callback(llama.kill)
            started.append(llama)
        return started

    return start


# What no test of a module stops, kills or fills up is started once for all of them: a proxy takes
# a second of a core. Such a test looks at what has come since it began, and at nothing before.


@pytest.fixture(scope="module")
def lasting() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def lasting_proxy(lasting: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> StartProxy:
    """As `start_proxy`; each has a directory of its own."""

    def start(*backends: str, **options: Any) -> Proxy:
        return _proxies(lasting, tmp_path_factory.mktemp("proxy"))(*backends, **options)

    return start


@pytest.fixture(scope="module")
def lasting_llamas(lasting: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> StartLlamas:
    """As `llama_servers`."""
    return _llamas(lasting, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def lasting_upstream(lasting: ExitStack) -> StartUpstream:
    """As `start_upstream`."""
    return lambda behave, **options: lasting.enter_context(Upstream(behave, **options))
