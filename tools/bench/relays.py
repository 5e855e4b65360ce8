"""What stands between client and upstream: nginx, Go, HeartCode, LiteLLM, or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import requests

_ROOT = Path(__file__).parents[2]
_DEBIANS_PYTHON = Path("/usr/bin/python3")
_LITELLM_VERSION = "1.106.2"
_READY_WITHIN_S = 90


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Relay:
    """A program, with its children, that relays from `url` to the upstream."""

    name = ""

    def __init__(self, directory: Path, upstreams: Sequence[int], *, port: int = 0) -> None:
        self.port = port or free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory / self.name
        self.directory.mkdir()
        self._log = (self.directory / "log").open("wb")
        self._process = self._start(upstreams)

    def _start(self, upstreams: Sequence[int]) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def _run(
        self, command: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        log = self._log
        return subprocess.Popen(command, env=env, cwd=cwd, stdout=log, stderr=log)

    def wait_until_ready(self, path: str = "/", *, good: bool = False) -> None:
        """Return when it answers HTTP, whatever it says; with `good`, when it says 200."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                if requests.get(self.url + path, timeout=2).ok or not good:
                    return
            except requests.RequestException:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.directory / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} does not start:\n{text}")
            time.sleep(0.1)

    def wait_until_serving(self) -> None:
        """Return when its `/health` says that it can serve."""
        self.wait_until_ready("/health", good=True)

    def processes(self) -> list[int]:
        """Return the ids of the program and all its descendants."""
        found = [self._process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            found += [int(child) for child in children.split()]
        return found

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads, user and system, in seconds."""
        total_ns = 0
        for pid in self.processes():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                total_ns += int((thread / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def peak_mb(self) -> float:
        """Return the largest resident set that any of its processes ever had, in MB."""
        peaks = []
        for pid in self.processes():
            status = Path(f"/proc/{pid}/status").read_text()
            peaks += [int(li.split()[1]) for li in status.splitlines() if li.startswith("VmHWM")]
        return max(peaks) * 1024 / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


def nginx_temp_paths(directory: Path) -> str:
    """Return the directives that have nginx keep what it buffers in `directory`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)


class Nginx(Relay):
    """nginx as a plain proxy: it streams, and does nothing else."""

    name = "nginx"

    def _start(self, upstreams: Sequence[int]) -> subprocess.Popen[bytes]:
        servers = "".join(f"server 127.0.0.1:{port};" for port in upstreams)
        conf = self.directory / "nginx.conf"
        conf.write_text(
            f"""
            daemon off; worker_processes 1; pid {self.directory}/pid; error_log stderr;
            events {{ worker_connections 16384; }}
            http {{
                access_log off;
                {nginx_temp_paths(self.directory)}
                upstream backends {{ {servers} }}
                server {{
                    listen 127.0.0.1:{self.port};
                    location / {{
                        proxy_pass http://backends; proxy_http_version 1.1;
                        proxy_set_header Connection ""; proxy_buffering off;
                    }}
                }}
            }}
            """
        )
        return self._run(["nginx", "-e", "stderr", "-c", str(conf)])


class HeartCode(Relay):
    """The rig's proxy as heartcode.service runs it, with all that is on by default."""

    name = "heartcode"
    python = sys.executable
    slots = 9  # more than 100 on the 12 backends of a full rig
    settings: Mapping[str, str] = {}
    app = _ROOT / "app"

    def _start(self, upstreams: Sequence[int]) -> subprocess.Popen[bytes]:
        env = {
            "PATH": os.environ["PATH"],
            "PORT": str(self.port),
            "HEARTCODE_LISTEN": "127.0.0.1",
            "HEARTCODE_BACKENDS": ",".join(f"http://127.0.0.1:{port}" for port in upstreams),
            "HEARTCODE_SLOTS": str(self.slots),
            "HEARTCODE_MODEL": "bench",
            "HEARTCODE_RUN_DIR": str(self.directory),
            "HEARTCODE_METRICS_DIR": str(self.directory / "metrics"),
            "HEARTCODE_LEARNT_DIR": str(self.directory / "learnt"),  # nothing: it is not there
            "HEARTCODE_GRACEFUL_TIMEOUT_S": "1",
            **self.settings,
        }
        command = [self.python, "-m", "heartcode.master"]
        return self._run(command, env=env, cwd=self.app)


class HeartCodeBefore(HeartCode):
    """The proxy of another checkout, which is compared with this one."""

    name = "heartcode-before"


class HeartCodeForMany(HeartCode):
    """The same, with the slots for thousands of streams at a time."""

    name = "heartcode-many"
    slots = 64  # the most that a backend may have
    settings: Mapping[str, str] = {"HEARTCODE_MAX_CONNECTIONS": "8000"}


class Go(Relay):
    """The reverse proxy of Go's standard library, which routers written in Go stand on."""

    name = "go"
    version = ""
    program = ""

    def _start(self, upstreams: Sequence[int]) -> subprocess.Popen[bytes]:
        backends = [f"127.0.0.1:{port}" for port in upstreams]
        return self._run([self.program, "-listen", f"127.0.0.1:{self.port}", *backends])


class LiteLLM(Relay):
    """LiteLLM's proxy, the gateway of HeartCode's first release; one worker, no database."""

    name = "litellm"
    version = _LITELLM_VERSION
    program = ""

    def _start(self, upstreams: Sequence[int]) -> subprocess.Popen[bytes]:
        config = self.directory / "config.yaml"
        models = "".join(
            f"""
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{port}/v1
      api_key: none
"""
            for port in upstreams
        )
        config.write_text(
            f"model_list:{models}\nlitellm_settings:\n  drop_params: false\n  num_retries: 0\n"
        )
        # It would ask the internet for a table of prices.
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"}
        env["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
        arguments = ["--config", str(config), "--port", str(self.port), "--host", "127.0.0.1"]
        return self._run([self.program, *arguments], env=env)


class Direct:
    """No relay: what client and upstream cost by themselves."""

    name = "direct"

    def __init__(self, upstreams: Sequence[int]) -> None:
        self.url = f"http://127.0.0.1:{upstreams[0]}"


def install_litellm(cache: Path) -> str | None:
    """Return the program, from an environment of its own in `cache`; None if it cannot be had."""
    environment = cache / "litellm"
    program = environment / "bin" / "litellm"
    if not program.exists():
        _install(sys.executable, environment, f"litellm[proxy]=={_LITELLM_VERSION}")
    return str(program) if program.exists() else None


def build_go(cache: Path) -> tuple[str, str] | None:
    """Return the program in Go and the compiler's version; None where there is no compiler.

    Raises:
        SystemExit: when it does not compile.
    """
    go = shutil.which("go")
    if go is None:
        return None
    version = subprocess.run([go, "version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    source = Path(__file__).with_name("reverse_proxy.go")
    digest = hashlib.sha256(source.read_bytes() + version.encode()).hexdigest()[:12]
    program = cache / f"bench-go-{digest}"
    if not program.exists():
        print(f"Compiling {source.name} with {version.strip()}.", file=sys.stderr)
        # Nothing but the standard library: no module, nothing from outside, no C.
        own = {"GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "", "CGO_ENABLED": "0"}
        own["GOCACHE"] = str(cache / "go-build")
        cache.mkdir(parents=True, exist_ok=True)
        part = program.with_suffix(".part")
        command = [go, "build", "-o", str(part), str(source)]
        if subprocess.run(command, env={**os.environ, **own}, check=False).returncode:
            sys.exit(f"{source} does not compile with {version.strip()}")
        part.rename(program)
    return str(program), version.removeprefix("go version ").split()[0]


def install_heartcode(cache: Path) -> str:
    """Return an interpreter with what a rig has: Debian's python3 and the pinned packages.

    Others cost more: one that was built without profile-guided optimisation takes a sixth longer.
    Where there is no Debian's, the interpreter of this program does.
    """
    pins = _ROOT / "app" / "requirements.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()[:12]
    environment = cache / f"bench-{digest}"
    python = environment / "bin" / "python"
    if _DEBIANS_PYTHON.exists() and not (environment / "bin" / "gunicorn").exists():
        _install(
            str(_DEBIANS_PYTHON), environment, "--require-hashes", "--no-deps", "-r", str(pins)
        )
    return str(python) if (environment / "bin" / "gunicorn").exists() else sys.executable


def _install(python: str, environment: Path, *packages: str) -> None:
    print(f"Installing {packages[-1]} in {environment}.", file=sys.stderr)
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", *packages]
    for command in ([python, "-m", "venv", str(environment)], pip):
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            return
