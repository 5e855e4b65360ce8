"""The real programs under test: gunicorn with our configuration, the exporter, llama-server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests import hold_thread

APP = Path(__file__).parents[2] / "app"
CHAT = "/v1/chat/completions"
COMPLETION = "/completion"
# With this an answer is relayed as it is: neither continued nor made of a stream.
AS_IT_IS = {"return_tokens": True}
# How long something may take that is sure to come: a busy machine is no fault.
PATIENCE_S = 100.0
# What design and role give every llama-server, with a small context and no GPU.
LLAMA_FLAGS = (
    "--host 127.0.0.1 -ngl 0 -c 65536 -t 1 -fit off -fa on -ctk q8_0 -ctv q8_0"
    " --cache-ram 64 --sse-ping-interval 1 --metrics --no-ui"
)

# The program that comes next gets the socket as systemd gives it.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody else gets, be it a client or a test in another process.

    It stays bound as long as this process lives, without listening: who connects is refused, and a
    program under test can bind it as well, as both sockets may share it.
    """
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    # Only now: with them, the kernel would have given a port that is held already.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _held.append(held)
    port: int = held.getsockname()[1]
    return port


def wait_until(condition: Callable[[], bool], what: str, *, every_s: float = 0.02) -> None:
    """Poll; the time limit only ends a test that has failed."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain until {what}")
        time.sleep(every_s)


def whole_lines(log: Path) -> list[str]:
    """Return the lines that are there to their end: who reads may see a part of the last one."""
    return log.read_text().rpartition("\n")[0].splitlines()


def plain(fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request for which the path does not matter."""
    return (COMPLETION, {**AS_IT_IS, **fields}) if "prompt" in fields else (CHAT, dict(fields))


class Program:
    """A process with its output in files; ended by its own pid."""

    def __init__(
        self,
        command: list[str],
        *,
        name: str,
        directory: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.stdout = directory / f"{name}.stdout"
        self.stderr = directory / f"{name}.stderr"
        # Appended: a program that is started again goes on in the same files.
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, env=env, cwd=cwd, pass_fds=pass_fds
            )

    def wait_until_answers(self, url: str) -> None:
        def answers() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"ended by itself: {self.stderr.read_text()}")
            try:
                return requests.get(url, timeout=5).ok
            except (requests.ConnectionError, requests.Timeout):
                return False

        wait_until(answers, f"{url} answers")

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


class Proxy(Program):
    """The proxy, started as heartcode.service starts it.

    With a `listener` it is handed over, as heartcode.socket does. `app` is the program's directory,
    and `program` what Python runs there.
    """

    def __init__(
        self,
        directory: Path,
        backends: list[str],
        *,
        listener: socket.socket | None = None,
        app: Path = APP,
        program: tuple[str, ...] = ("-m", "heartcode.master"),
        awaited: bool = True,
        **variables: str,
    ) -> None:
        self.app = app
        self._program = program
        self.awaited = awaited
        self._listener = listener
        self.port: int = listener.getsockname()[1] if listener else free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.run_dir = directory
        self.metrics_dir = directory / "metrics"
        self.env = {
            "PATH": os.environ["PATH"],
            "PORT": str(self.port),
            "METRICS_PORT": str(free_port()),
            "HEARTCODE_LISTEN": "127.0.0.1",
            "HEARTCODE_BACKENDS": ",".join(backends),
            "HEARTCODE_RUN_DIR": str(directory),
            "HEARTCODE_METRICS_DIR": str(self.metrics_dir),
            "HEARTCODE_LEARNT_DIR": str(directory / "learnt"),  # for the test to make, if it wants
            "HEARTCODE_GRACEFUL_TIMEOUT_S": "5",
            **variables,
        }
        self.start()

    def start(self) -> None:
        log = self.run_dir / "proxy.stdout"
        self._told_before = len(whole_lines(log)) if log.exists() else 0
        command = [sys.executable, *self._program]
        pass_fds: tuple[int, ...] = ()
        if self._listener:
            number = self._listener.fileno()
            pass_fds = (number,)
            command = [sys.executable, "-c", HAND_OVER, str(number), *command]
        super().__init__(
            command,
            name="proxy",
            directory=self.run_dir,
            env=self.env,
            cwd=self.app,
            pass_fds=pass_fds,
        )
        self.wait_until_answers(f"{self.url}/livez")
        if self.awaited:
            wait_until(self._has_probed_all, "every backend has been probed")

    def _has_probed_all(self) -> bool:
        """Return whether something is known of each backend: from then on probes are rare."""
        told = whole_lines(self.stdout)[self._told_before :]
        backends = {line["backend"] for line in map(json.loads, told) if line["event"] == "backend"}
        return len(backends) == len(self.env["HEARTCODE_BACKENDS"].split(","))

    def worker_pid(self) -> int:
        """Return the worker's process id, once there is one worker."""
        wait_until(lambda: len(self.workers()) == 1, "there is one worker")
        return self.workers()[0]

    def kill(self) -> None:
        """Kill the master; a worker that stands still has to go on to see that and end."""
        workers = self.workers() if self.process.poll() is None else []
        super().kill()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def reload(self, *, pid: int | None = None) -> subprocess.CompletedProcess[str]:
        """Do what `systemctl reload` does: run a program of the new code with the new settings."""
        return subprocess.run(
            [sys.executable, "-m", "heartcode.reload"],
            env={**self.env, "MAINPID": str(pid or self.process.pid)},
            cwd=self.app,
            capture_output=True,
            text=True,
            check=False,
        )

    def workers(self) -> list[int]:
        """Return the process ids of the workers, the eldest first."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return sorted(int(child) for child in children.split())

    def post(self, path: str = "", **fields: Any) -> requests.Response:
        """Ask; where no path is given, the fields say which."""
        if not path:
            path, fields = plain(fields)
        return requests.post(self.url + path, json=fields, timeout=PATIENCE_S)

    def stream(self, path: str = "", **fields: Any) -> requests.Response:
        """Ask for a stream; to be used with `with`."""
        body = {**fields, "stream": True}
        if not path:
            path, body = plain(body)
        return requests.post(self.url + path, json=body, stream=True, timeout=PATIENCE_S)

    def log_lines(self, event: str = "request") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in whole_lines(self.stdout)]
        return [line for line in lines if line["event"] == event]

    def log_line(self, request_id: str) -> dict[str, Any]:
        """Return the line of one request, which is written after the client has its answer."""

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.log_lines() if line["id"] == request_id]

        wait_until(lambda: bool(lines()), f"{request_id} is in the log")
        (line,) = lines()
        return line


class GatewayRelay(Proxy):
    """The gateway's relay, started as heartcode-relay.service starts it.

    `url` is where it is asked for its first rig; `addresses` has one for each.
    """

    def __init__(
        self,
        directory: Path,
        rigs: list[str],
        *,
        addresses: Sequence[str] = (),
        **variables: str,
    ) -> None:
        self.addresses = list(addresses) or [f"127.77.0.{n}" for n, _ in enumerate(rigs, 1)]
        own: dict[str, Any] = {
            "HEARTCODE_LISTEN": "0.0.0.0",  # noqa: S104 - heartcode-relay.socket binds it to lo
            "HEARTCODE_RIG_ADDRESSES": ",".join(self.addresses),
            **variables,
        }
        super().__init__(directory, rigs, awaited=False, **own)
        self.own_url, self.url = self.url, f"http://{self.addresses[0]}:{self.port}"

    def metric(self, name: str, /, **labels: str) -> float:
        """Return the sum of the samples of `name` that have these labels."""
        text = requests.get(f"{self.own_url}/metrics", timeout=PATIENCE_S).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Exporter(Program):
    """`python -m heartcode.exporter`, with the environment of a proxy or one like it."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.url = f"http://127.0.0.1:{env['METRICS_PORT']}/metrics"
        command = [sys.executable, "-m", "heartcode.exporter"]
        super().__init__(command, name="exporter", directory=directory, env=env, cwd=APP)
        self.wait_until_answers(self.url)

    def value(self, name: str, /, **labels: str) -> float:
        """Return the sum of the samples of `name` that have these labels."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def samples(self, name: str, /, **labels: str) -> list[Sample]:
        """Return the samples of `name` that have these labels."""
        families = text_string_to_metric_families(requests.get(self.url, timeout=PATIENCE_S).text)
        return [
            sample
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]


class Llama(Program):
    """A real llama-server, by default with the counting model of the whole run.

    `name` is its alias, by which the proxy knows it where its settings name a model; `n_ctx` the
    context of one conversation, by default that of LLAMA_FLAGS shared out among the slots.
    """

    def __init__(
        self,
        directory: Path,
        *,
        model: Path | None = None,
        slots: int = 2,
        batch: int = 2048,
        flags: str = "",
        name: str = "",
        n_ctx: int = 0,
        port: int = 0,
    ) -> None:
        command = os.environ.get("HEARTCODE_TEST_LLAMA_SERVER", "")
        path = str(model or os.environ.get("HEARTCODE_TEST_MODEL", ""))
        if not command or not path:
            raise AssertionError(
                "HEARTCODE_TEST_LLAMA_SERVER or HEARTCODE_TEST_MODEL is not set: "
                "run these tests with `make integration`"
            )
        self._holders: list[subprocess.Popen[bytes]] = []
        port = port or free_port()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        own = [
            "-np",
            str(slots),
            "-b",
            str(batch),
            "-ub",
            str(min(batch, 512)),
            "--port",
            str(port),
            "-m",
            path,
        ]
        own += ["--alias", name] if name else []
        own += ["-c", str(n_ctx * slots)] if n_ctx else []
        arguments = [*LLAMA_FLAGS.split(), *flags.split(), *own]
        super().__init__(
            [*shlex.split(command), *arguments], name=f"llama-{port}", directory=directory
        )
        self.wait_until_answers(f"{self.url}/health")

    def hang(self) -> None:
        """Stand still, with all connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def hang_amid_its_work(self) -> None:
        """Compute no more, while the HTTP threads go on; it cannot be made to go on."""
        pid = self.process.pid
        holder = subprocess.Popen([sys.executable, hold_thread.__file__, str(pid)])
        self._holders.append(holder)
        status = Path(f"/proc/{pid}/task/{pid}/status")

        def stands_still() -> bool:
            assert holder.poll() is None, "its thread cannot be held"
            return "\nState:\tt" in status.read_text()

        wait_until(stands_still, "the thread that computes stands still")

    def kill(self) -> None:
        super().kill()
        for holder in self._holders:  # they end with it
            holder.wait(PATIENCE_S)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ask(self, path: str, **body: object) -> Any:
        response = requests.post(self.url + path, json=body, timeout=120)
        response.raise_for_status()
        return response.json()

    def events(self, path: str, **body: object) -> Iterator[Any]:
        body["stream"] = True
        with requests.post(self.url + path, json=body, stream=True, timeout=120) as response:
            response.raise_for_status()
            yield from events(response)

    def slots(self) -> list[dict[str, Any]]:
        slots: list[dict[str, Any]] = requests.get(f"{self.url}/slots", timeout=PATIENCE_S).json()
        return slots

    def is_generating(self) -> bool:
        return any(slot["is_processing"] for slot in self.slots())

    def longest_sequence(self) -> int:
        """Return how many tokens, prompt and answer, the fullest slot has seen."""
        return max(int(slot.get("n_prompt_tokens", 0)) for slot in self.slots())


def connect_and_send(
    proxy: Proxy, path: str, fields: Mapping[str, Any], *, version: str = "1.1"
) -> socket.socket:
    """Send a request; its answer, or leaving without it, is the caller's business."""
    body = json.dumps(fields)
    head = f"POST {path} HTTP/{version}\r\nHost: rig\r\nContent-Length: {len(body)}\r\n\r\n"
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S)
    sock.sendall(f"{head}{body}".encode())
    return sock


def events(response: requests.Response) -> Iterator[Any]:
    """Return the JSON of each event as it arrives; the stream has to end with [DONE]."""
    for line in response.iter_lines(chunk_size=None):
        if line == b"data: [DONE]":
            return
        # Comments are signs of life, and come where a card compiles its kernels first.
        if line and not line.startswith(b":"):
            yield json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended without [DONE]")


def content(event: Any) -> str:
    """Return the text that one chat event adds."""
    choices = event["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


def counted_to(last: int) -> str:
    return "".join(f" {number}" for number in range(1, last + 1))
