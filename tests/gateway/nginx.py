"""The role's nginx on the loopback interface: Debian 13's, in the role's own configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.integration.processes import Program, wait_until, whole_lines
from tools.bench.gateway import LOGS, reference, render_variants
from tools.bench.relays import nginx_temp_paths

ROOT = Path(__file__).parents[2]
_FILES = ROOT / "roles/gateway/files"
#: What the variants are rendered with; each nginx that is started has other ports instead.
PORT, TLS_PORT, PROMETHEUS, RIGS = 4000, 443, 9090, (8081, 8082, 8083, 8084)
RELAY = 4003
#: Nobody listens there.
NOWHERE = 1
#: An address of this process alone: no other can take a port between its choice and its use.
HOST = f"127.{1 + os.getpid() // 250 % 250}.{1 + os.getpid() % 250}.1"
# So many everywhere, whatever machine the tests are on: two share what they know of rigs.
_WORKERS = 2
# Where the relay is asked for a rig, and what it is told of them.
_RELAYED = re.compile(rf"\b(127[.][0-9.]+):{RELAY}\b")
_ADDRESS = re.compile(rf"\b(127[.]0[.]0[.]1|{re.escape(HOST)}):([0-9]+)\b")


class Variants:
    """The role's configuration in its variants, all rendered in one go."""

    def __init__(self, directory: Path, variants: Mapping[str, Mapping[str, Any]]) -> None:
        self.directory = directory
        pages = {
            "_gateway_page_dir": str(_FILES / "page"),
            "_gateway_status_dir": str(_status_page(directory / "status")),
            "gateway_listen_address": HOST,
            "gateway_port": PORT,
            "gateway_tls_port": TLS_PORT,
            "gateway_tls_names": [HOST],
            "gateway_status_prometheus": f"127.0.0.1:{PROMETHEUS}",
        }
        render_variants(directory, {name: pages | dict(own) for name, own in variants.items()})

    def site(self, name: str) -> str:
        return (self.directory / name / "heartcode.conf").read_text()

    def file(self, name: str, file: str) -> Path:
        return self.directory / name / file


def _status_page(directory: Path) -> Path:
    """Put the page together as the role does, which shares some files between its two pages."""
    tasks = yaml.safe_load((ROOT / "roles/gateway/tasks/page.yml").read_text())
    for task in tasks:
        for entry in task.get("host_files", {}).get("files", []):
            path = entry["path"].replace("{{ _gateway_status_dir }}", str(directory))
            if path == str(directory):
                shutil.copytree(_FILES / entry["src"], directory)
            elif path.startswith(f"{directory}/"):
                shutil.copy(_FILES / entry["src"], path)
    return directory


class Gateway(Program):
    """An nginx that serves a site of the role, inside of Debian's own configuration.

    `behind` gives the ports of rigs, Prometheus and relay; in its log rigs that were asked through
    the relay have their own addresses.

    It hides what is a matter of the host: its workers are the tests' user and not www-data, so
    that no mode of a file keeps them out, and no unit locks them in.
    """

    def __init__(
        self, directory: Path, site: str, *, behind: Mapping[int, int], key: str = ""
    ) -> None:
        self.port, self.tls_port = _free_ports()
        self._ports = {PORT: self.port, TLS_PORT: self.tls_port, RELAY: NOWHERE, **behind}
        self.relayed: dict[str, int] = {}
        self.url = f"http://{HOST}:{self.port}"
        self.key = key
        self._directory = directory
        directory.mkdir()
        self.write(site)
        self._errors = directory / "error.log"
        conf = directory / "nginx.conf"
        conf.write_text(_debian_s_configuration(directory))
        super().__init__(
            [
                str(reference() / "usr/lib64/ld-linux-x86-64.so.2"),
                *("--library-path", str(reference() / "usr/lib/x86_64-linux-gnu")),
                str(reference() / "usr/sbin/nginx"),
                *("-p", str(reference() / "usr/share/nginx")),
                *("-c", str(conf), "-g", "daemon off;"),
            ],
            name="nginx",
            directory=directory,
        )
        wait_until(self._listens, "nginx listens")
        # It listens before it has made any of them.
        wait_until(lambda: len(self.workers()) == _WORKERS, "nginx has its workers")

    @property
    def authorization(self) -> dict[str, str]:
        """The header that carries the key, where there is one."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def logs(self) -> str:
        """Everything that it has logged."""
        logs = sorted(self._directory.glob("*.log"))
        return "".join(log.read_text(errors="replace") for log in logs)

    def write(self, site: str) -> None:
        """Put a site into place; it is read at the start and by `reload`."""
        here = _ADDRESS.sub(lambda match: f"{match[1]}:{self._ports[int(match[2])]}", site)
        here = _RELAYED.sub(lambda match: f"{match[1]}:{self._ports[RELAY]}", here)
        (self._directory / "site.conf").write_text(here.replace(LOGS, str(self._directory)))

    def reload(self, site: str) -> None:
        """As `systemctl reload nginx`; return when those alone serve that know the new site."""
        old = set(self.workers())
        self.write(site)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not old & set(self.workers()), "the old workers are gone")

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        pid = self.process.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def log_lines(self, begin: str) -> list[dict[str, Any]]:
        """What it has logged of the requests whose ids begin so."""
        log = "\n".join(whole_lines(self._directory / "heartcode.log"))
        for address, port in self.relayed.items():
            log = log.replace(f"{address}:{self._ports[RELAY]}", f"127.0.0.1:{port}")
        lines = map(json.loads, log.splitlines())
        return [line for line in lines if line["id"].startswith(begin)]

    def log_line(self, identity: str) -> dict[str, Any]:
        """What it has logged of a request, which it does when it is over."""
        wait_until(lambda: bool(self.log_lines(identity)), f"the gateway logs {identity}")
        (line,) = self.log_lines(identity)
        return line

    def end(self) -> None:
        """Stop it; nothing of what went on in it may have surprised it."""
        self.stop()
        told = self._errors.read_text(errors="replace")
        assert not re.search(r"\[(emerg|alert|crit)\]|js exception", told), told

    def _listens(self) -> bool:
        # The file is written when all ports are bound.
        if (self._directory / "pid").exists():
            return True
        told = self._errors.read_text() if self._errors.exists() else ""
        assert self.process.poll() is None, told + self.stderr.read_text()
        return False


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        return one.getsockname()[1], other.getsockname()[1]


def _debian_s_configuration(directory: Path) -> str:
    """Return /etc/nginx/nginx.conf with this site alone, and with the paths that it has here."""
    etc = reference() / "etc/nginx"
    enabled = sorted((etc / "modules-enabled").iterdir())
    # The links are absolute: they name files of this root, not of this machine.
    modules = [(reference() / str(link.readlink()).lstrip("/")).read_text() for link in enabled]
    user = "user root;" if os.geteuid() == 0 else ""
    conf = (etc / "nginx.conf").read_text()
    for theirs, ours in (
        ("user www-data;", user),
        ("worker_processes auto;", f"worker_processes {_WORKERS};"),
        ("pid /run/nginx.pid;", f"pid {directory}/pid;"),
        ("include /etc/nginx/modules-enabled/*.conf;", "".join(modules)),
        ("/etc/nginx/sites-enabled/*;", f"{directory}/site.conf;"),
        ("http {", f"http {{ {nginx_temp_paths(directory)}"),
        ("/etc/nginx/", f"{etc}/"),
        (LOGS, str(directory)),
    ):
        assert theirs in conf, f"Debian's nginx.conf has no {theirs}"
        conf = conf.replace(theirs, ours)
    return conf
