"""The fleet's real parts on this machine's loopback: the role's nginx with njs, rigs' proxies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from roles.gateway.filter_plugins.relay import relay_addresses, relay_settings
from tools.bench.relays import HeartCode, Relay, free_ports, nginx_temp_paths

_HERE = Path(__file__).parent
_ROLE = _HERE.parents[1] / "roles/gateway"
_MODULES = Path("/usr/share/nginx/modules-available/mod-http-js.conf")
LOGS = "/var/log/nginx"
#: What nginx runs of the role's files.
SCRIPTS = ("gateway.js", "body.js")
# How the role's template lets nginx choose among the rigs of a model.
_BALANCING = re.compile(r"^    (hash \$heartcode_key consistent;|least_conn;)\n", re.MULTILINE)


@cache
def reference() -> Path:
    """Return the root directory of a Debian 13 that has nginx with njs; it is made once."""
    made = subprocess.run(
        [_HERE.parent / "checking_root.sh"], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(made.stdout.strip())


def is_installed() -> bool:
    """Return whether this machine has an nginx with njs."""
    return bool(shutil.which("nginx")) and _MODULES.exists()


def nginx() -> tuple[list[str], str]:
    """Return the command that runs nginx, and the line of its configuration that loads njs.

    It is this machine's, or Debian 13's where none with njs is installed.
    """
    if is_installed():
        return ["nginx"], f"include {_MODULES};"
    root = reference()
    libraries = ("--library-path", str(root / "usr/lib/x86_64-linux-gnu"))
    loader = str(root / "usr/lib64/ld-linux-x86-64.so.2")
    program = [
        loader,
        *libraries,
        str(root / "usr/sbin/nginx"),
        "-p",
        str(root / "usr/share/nginx"),
    ]
    return program, "load_module modules/ngx_http_js_module.so;"


def render_variants(directory: Path, variants: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the role's configuration in each variant into a directory of its name.

    A variant is given by the variables in which it differs from the role's defaults; it listens on
    the loopback interface.

    Raises:
        RuntimeError: when the role cannot be rendered.
    """
    whole = {
        name: {
            "_gateway_njs_dir": str(directory / name),
            "gateway_listen_address": "127.0.0.1",
            "gateway_tls_names": ["127.0.0.1"],
            **variables,
        }
        for name, variables in variants.items()
    }
    given, output = directory / "variants.json", directory / "rendered.json"
    given.write_text(json.dumps({"variants": whole, "output": str(output)}))
    playbook = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [playbook, "-i", "localhost,", _HERE / "gateway.yml", "-e", f"@{given}"],
        env={**os.environ, "ANSIBLE_FILTER_PLUGINS": str(_ROLE / "filter_plugins")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the role gateway cannot be rendered:\n{done.stdout}")
    for name, files in json.loads(output.read_text()).items():
        own = directory / name
        own.mkdir()
        for file, content in files.items():
            (own / file).write_text(content)
        for script in SCRIPTS:
            shutil.copy(_ROLE / "files" / script, own)


def upstreams(rigs: Mapping[int, int], models: Sequence[str] = ("bench",)) -> list[dict[str, Any]]:
    """Return `gateway_upstreams` for models on rigs with ports and slots."""
    return [
        {
            "address": f"127.0.0.1:{rig}",
            "models": [{"names": [model], "slots": slots} for model in models],
        }
        for rig, slots in rigs.items()
    ]


def render(
    directory: Path,
    *,
    port: int,
    rigs: Mapping[int, int],
    models: Sequence[str] = ("bench",),
    relay_port: int = 0,
) -> str:
    """Write the configuration for models on rigs with ports and slots; return the site.

    Without a `relay_port` nginx asks the rigs itself.
    """
    variables = {
        "gateway_port": port,
        "gateway_auth": "none",
        "gateway_upstreams": upstreams(rigs, models),
        "gateway_relay_enabled": bool(relay_port),
        "gateway_relay_port": relay_port,
    }
    render_variants(directory, {"bench": variables})
    site = (directory / "bench/heartcode.conf").read_text()
    return site.replace(LOGS, str(directory))


def balanced(site: str, directive: str) -> str:
    """Return the site with another way to choose a rig: "" for round robin, or "least_conn;".

    Both stages choose in that way; whether a rig takes a request is left to the rig as before.
    """
    changed, found = _BALANCING.subn(f"    {directive}\n", site)
    if not found:
        raise ValueError("the gateway's site has no place where a rig is chosen")
    return changed


class Gateway(Relay):
    """nginx with the role's site, as many workers as cores, as Debian sets it up."""

    def __init__(
        self, directory: Path, site: str, *, port: int, name: str = "gateway", workers: str = "auto"
    ) -> None:
        self.name = name
        self._site, self._workers = site, workers
        super().__init__(directory, [], port=port)

    def _start(self, _: Sequence[int]) -> subprocess.Popen[bytes]:
        (self.directory / "site.conf").write_text(self._site)
        conf = self.directory / "nginx.conf"
        program, modules = nginx()
        conf.write_text(
            f"""
            {modules}
            daemon off; worker_processes {self._workers};
            pid {self.directory}/pid; error_log stderr;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{ worker_connections 8192; }}
            http {{ {nginx_temp_paths(self.directory)} include {self.directory}/site.conf; }}
            """
        )
        return self._run([*program, "-e", "stderr", "-c", str(conf)])


class Rig(HeartCode):
    """A rig's proxy with settings of its own."""

    def __init__(
        self,
        directory: Path,
        upstreams: Sequence[int],
        *,
        name: str,
        port: int = 0,
        slots: int = 9,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.slots, self.settings = name, slots, settings or {}
        super().__init__(directory, upstreams, port=port)

    def answered(self) -> dict[str, float]:
        """Return the ids of the requests that it has answered, with the seconds in its queue."""
        queued = {}
        for line in (self.directory / "log").read_text().splitlines():
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("event") == "request" and told["status"] == 200:  # noqa: PLR2004
                queued[told["id"]] = told["queue_s"] or 0.0
        return queued


class GatewayRelay(HeartCode):
    """The gateway's relay before rigs with ports and slots."""

    def __init__(self, directory: Path, rigs: Mapping[int, int], *, name: str, port: int) -> None:
        self.name = name
        known = upstreams(rigs)
        # Every address of the loopback interface, where one stands for each rig.
        self.settings = {
            **relay_settings(known, relay_addresses(known)),
            "HEARTCODE_LISTEN": "0.0.0.0",  # noqa: S104
        }
        super().__init__(directory, list(rigs), port=port)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A gateway before one full rig: its URL, and all programs that a token passes."""

    url: str
    programs: Sequence[Relay]

    def cpu_s(self) -> float:
        """Return the CPU time of all of them, in seconds."""
        return sum(program.cpu_s() for program in self.programs)


@contextmanager
def chain(directory: Path, upstreams: Sequence[int], *, relay: bool = True) -> Iterator[Chain]:
    """Run a gateway, with its relay or without, before one full rig."""
    gateway_port, rig_port, relay_port = free_ports(3)
    name = "chain" if relay else "chain-without"
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(directory, upstreams, name=f"{name}-rig", port=rig_port))
        rig.wait_until_ready("/health")
        programs: list[Relay] = [rig]
        rendered = directory / name
        rendered.mkdir()
        rigs = {rig_port: rig.slots * len(upstreams)}
        if relay:
            between = GatewayRelay(directory, rigs, name=f"{name}-relay", port=relay_port)
            programs.append(stack.enter_context(between))
            between.wait_until_ready("/livez")
        site = render(rendered, port=gateway_port, rigs=rigs, relay_port=relay_port if relay else 0)
        gateway = Gateway(directory, site, port=gateway_port, name=f"{name}-gateway")
        programs.append(stack.enter_context(gateway))
        gateway.wait_until_ready("/health")
        yield Chain(url=gateway.url, programs=programs)
