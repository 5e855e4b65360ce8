"""The fleet's real parts on this machine's loopback: the role's nginx with njs, rigs' proxies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.bench.relays import HeartCode, Relay, free_ports, nginx_temp_paths

_HERE = Path(__file__).parent
_ROLE = _HERE.parents[1] / "roles/gateway"
_MODULES = Path("/usr/share/nginx/modules-available/mod-http-js.conf")
LOGS = "/var/log/nginx"
# How the role's template lets nginx choose among the rigs of a model.
_BALANCING = re.compile(r"^    (hash \$heartcode_key consistent;|least_conn;)\n", re.MULTILINE)


def missing() -> str:
    """Return what has to be installed for a gateway to run here; "" for nothing."""
    if shutil.which("nginx") and _MODULES.exists():
        return ""
    return "nginx with njs is missing: apt-get install nginx-light libnginx-mod-http-js"


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
        shutil.copy(_ROLE / "files/gateway.js", own)


def render(directory: Path, *, port: int, rigs: Mapping[int, int]) -> str:
    """Write the configuration for one model on rigs with ports and slots; return the site."""
    variables = {
        "gateway_port": port,
        "gateway_auth": "none",
        "gateway_upstreams": [
            {"address": f"127.0.0.1:{rig}", "models": [{"names": ["bench"], "slots": slots}]}
            for rig, slots in rigs.items()
        ],
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

    def __init__(self, directory: Path, site: str, *, port: int, name: str = "gateway") -> None:
        self.name = name
        self._site = site
        super().__init__(directory, [], port=port)

    def _start(self, _: Sequence[int]) -> subprocess.Popen[bytes]:
        (self.directory / "site.conf").write_text(self._site)
        conf = self.directory / "nginx.conf"
        conf.write_text(
            f"""
            include {_MODULES};
            daemon off; worker_processes auto; pid {self.directory}/pid; error_log stderr;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{ worker_connections 8192; }}
            http {{ {nginx_temp_paths(self.directory)} include {self.directory}/site.conf; }}
            """
        )
        return self._run(["nginx", "-e", "stderr", "-c", str(conf)])


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


@contextmanager
def chain(directory: Path, upstreams: Sequence[int]) -> Iterator[str]:
    """Run a gateway before one full rig; yield the gateway's URL."""
    gateway_port, rig_port = free_ports(2)
    with Rig(directory, upstreams, name="chain-rig", port=rig_port) as rig:
        rig.wait_until_ready("/health")
        rendered = directory / "chain"
        rendered.mkdir()
        slots = rig.slots * len(upstreams)
        site = render(rendered, port=gateway_port, rigs={rig_port: slots})
        with Gateway(directory, site, port=gateway_port, name="chain-gateway") as gateway:
            gateway.wait_until_ready("/health")
            yield gateway.url
