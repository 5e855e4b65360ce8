"""The standing virtual fleet: requests, commands, pulled plugs."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

ROOT = Path(__file__).parents[2]
GATEWAY_PORT = 4000
UNITS = "heartcode.service heartcode-exporter.service 'heartcode-llama@*.service'"

#: The roles that write a rig's settings: each needs what those before it have found out.
RIG = ("gpu_driver", "llama_cpp", "model", "llama_server", "app", "proxy", "exporter")

#: A role, and the file of its tasks that is entered.
Entry = tuple[str, str]

#: For each unit of the rigs which start of it this is.
Starts = dict[tuple[str, str], str]


def comes_true(condition: Callable[[], Any], timeout_s: float) -> Any:
    """Return the condition's value when it is true, or its last one after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() <= deadline:
        time.sleep(0.1)
    return value


def wait_for(
    condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = 60
) -> Any:
    """Return the condition's value when it is true, or fail after `timeout_s`.

    `what` is waited for; it may be a function that tells at the end what there is instead.
    """
    if not (value := comes_true(condition, timeout_s)):
        told = what() if callable(what) else what
        pytest.fail(f"waited {timeout_s:g} s in vain: {told}")
    return value


def refusals(done: subprocess.CompletedProcess[str]) -> str:
    """The messages of the failed tasks, on one line."""
    assert done.returncode != 0, "the play did not stop"
    changed = [int(n) for n in re.findall(r"changed=(\d+)", done.stdout)]
    assert changed
    assert not any(changed), f"something was changed:\n{done.stdout}"
    # The standard error has them as they are, the standard output as YAML, with quotes doubled.
    return " ".join((done.stderr + done.stdout).split())


def entered(task: dict[str, Any]) -> Entry | None:
    """The role that a task enters, and where."""
    for module in ("import_role", "include_role"):
        if told := task.get(f"ansible.builtin.{module}"):
            return told["name"], told.get("tasks_from", "main")
    return None


def every_task(play: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a play, those of its blocks among them."""
    listed = [*play.get("tasks", []), *play.get("post_tasks", [])]
    return [one for task in listed for one in (task, *task.get("block", []))]


def taken(tasks: list[dict[str, Any]], wanted: Container[Entry | None]) -> list[dict[str, Any]]:
    """Those of a list of tasks that are wanted, and blocks in which something is."""
    for task in tasks:
        if "block" in task:
            task["block"] = taken(task["block"], wanted)
    empty = [task for task in tasks if "block" in task and not any(map(entered, task["block"]))]
    return [task for task in tasks if entered(task) in wanted and task not in empty]


def site_with(*roles: str) -> list[dict[str, Any]]:
    """The plays of playbooks/site.yml with these roles alone: their checks, then themselves."""
    plays: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    # The role common has looked at a host before any other one does.
    wanted = {None, ("common", "preflight")}
    # So has the role rig on rigs, and what one can go back to is kept whatever is changed.
    goes_with = {("rig", "preflight"), ("rig", "deploy")}
    goes_with |= {("generation", part) for part in ("preflight", "begin", "verify", "deploy")}
    parts = ["preflight", "begin", "finish", "program", "deploy", "remove_old", "tell"]
    parts += ["follow", "agree", "withdraw", "prepare"]  # of the role rpc_server
    asked = {(role, part) for role in roles for part in parts}
    every: dict[str, set[Entry | None]] = {play["hosts"]: set() for play in plays}
    for play in plays:
        every[play["hosts"]] |= {entered(task) for task in every_task(play)}
    unknown = {role for role in roles if (role, "deploy") not in set().union(*every.values())}
    assert not unknown, f"site.yml has no {unknown}"
    for play in plays:
        also = goes_with if asked & every[play["hosts"]] else set()
        if not asked & {entered(task) for task in every_task(play)}:
            # What has only been prepared serves nobody.
            also = also - {("generation", "verify")}
        for part in {"tasks", "post_tasks"} & play.keys():
            play[part] = taken(play[part], wanted | asked | also)
    return [play for play in plays if play.get("tasks") or play.get("post_tasks")]


@dataclass(frozen=True)
class Fleet:
    """A deployed fleet; `url` is the gateway's base URL."""

    directory: Path
    addresses: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{self.addresses['gateway']}:{GATEWAY_PORT}"

    @property
    def key(self) -> str:
        """The API key that the deployment has made."""
        return (self.directory / "gateway.key").read_text().strip()

    @property
    def authorization(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def rigs(self) -> list[str]:
        return [name for name in self.addresses if name.startswith("rig")]

    def ssh(self, host: str, command: str, *, check: bool = True) -> str:
        """Run a shell command on a host as root and return what it prints."""
        done = subprocess.run(
            # With -n: ssh would make the tests' own input non-blocking for as long as it runs, and
            # a playbook that starts meanwhile refuses that.
            ["ssh", "-n", "-F", self.directory / "ssh_config", host, command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode:
            pytest.fail(f"{host}: {command}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def copy_from(self, host: str, path: str, to: Path) -> None:
        """Copy a file of a host to this machine."""
        config = self.directory / "ssh_config"
        command: list[str | Path] = ["scp", "-q", "-F", config, f"{host}:{path}", to]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=120)

    def journal(self, host: str, *arguments: str) -> str:
        """Return messages of a host's journal, with all that was written to it before the call."""
        told = shlex.join(("journalctl", "--output=cat", *arguments))
        return self.ssh(host, f"journalctl --sync && {told}")

    def cursor(self, host: str) -> str:
        """Where a host's journal ends now, for `journal`."""
        shown = self.ssh(host, "journalctl --lines=0 --show-cursor")
        return "--after-cursor=" + shown.split("-- cursor: ")[1].strip()

    def tool(self, *arguments: str) -> None:
        """Call the fleet's own tool, to pull plugs and cables."""
        done = subprocess.run(
            [ROOT / "scripts/fleet.py", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def without_power(self, rig: str) -> AbstractContextManager[None]:
        """A rig whose power is cut, and that is booted again at the end."""
        return self._without("stop", "start", rig)

    def without_cable(self, rig: str) -> AbstractContextManager[None]:
        """A rig whose cable is pulled, and plugged in again at the end."""
        return self._without("cut", "restore", rig)

    @contextmanager
    def _without(self, take: str, give_back: str, rig: str) -> Iterator[None]:
        self.tool(take, rig)
        try:
            yield
        finally:
            self.tool(give_back, rig)

    def playbook(
        self,
        *arguments: str,
        inventory: Path = ROOT / "inventory/virtual",
        playbook: str = "playbooks/site.yml",
        tree: Path = ROOT,
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook on the fleet, as a person would; `tree` may be another repository."""
        return subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                "-i",
                inventory,
                playbook,
                *arguments,
            ],
            cwd=tree,
            env=os.environ
            | {"ANSIBLE_CONFIG": str(tree / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def play_roles(
        self, *roles: str, limit: str = "all", arguments: Sequence[str] = (), **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run playbooks/site.yml with these roles alone."""
        return self.play(site_with(*roles), limit=limit, arguments=arguments, **variables)

    def play(
        self,
        plays: Sequence[dict[str, Any]],
        limit: str = "all",
        arguments: Sequence[str] = (),
        tree: Path = ROOT,
        **variables: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run plays as if they stood in a playbook; `tree` may be another repository."""
        with tempfile.TemporaryDirectory() as directory:
            playbook, given = Path(directory, "plays.yml"), Path(directory, "variables.yml")
            playbook.write_text(yaml.safe_dump(list(plays), sort_keys=False))
            given.write_text(json.dumps(variables))
            told = ("--limit", limit, "--extra-vars", f"@{given}", *arguments)
            return self.playbook(*told, playbook=str(playbook), tree=tree)

    def deploy(self, *roles: str, limit: str = "all", **variables: Any) -> str:
        """Run them and return what Ansible has said."""
        done = self.play_roles(*roles, limit=limit, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def set_up_gateway(self, directory: Path, **variables: Any) -> str:
        """Run playbooks/gateway.yml, as verbosely as people do, and return what Ansible said.

        The variables go through a file: no key may stand in a list of processes.
        """
        file = directory / "variables.yml"
        file.write_text(json.dumps(variables))
        done = self.playbook(
            *("-vvv", "--diff", "--extra-vars", f"@{file}"), playbook="playbooks/gateway.yml"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def backends(self) -> list[tuple[str, int]]:
        """Every llama-server of the fleet as (rig, number)."""
        return [
            (rig, int(name.split("@")[1].split(".")[0]))
            for rig in self.rigs
            for name in self.ssh(
                rig, "systemctl list-units --plain --no-legend 'heartcode-llama@*'"
            ).split()
            if name.startswith("heartcode-llama@")
        ]

    def starts(self) -> Starts:
        """Return which start of each unit this is."""
        found = {}
        for rig in self.rigs:
            told = self.ssh(rig, f"systemctl show --property=Id,InvocationID {UNITS}")
            for unit in told.split("\n\n"):
                properties = dict(line.split("=", 1) for line in unit.splitlines())
                found[rig, properties["Id"]] = properties["InvocationID"]
        return found

    def started_again(self, before: Starts) -> set[tuple[str, str]]:
        """Return the units that have been started since."""
        return {unit for unit, start in self.starts().items() if before.get(unit) != start}

    def state(self, host: str, unit: str) -> str:
        """Return what systemd says of a unit: active, failed ..."""
        return self.ssh(host, f"systemctl is-active {unit}", check=False)

    def units(self, host: str) -> set[str]:
        """What runs on a host and belongs to the deployment, and what has failed there."""
        ours = "'heartcode*' 'prometheus*' nginx.service"
        list_units = "systemctl list-units --plain --no-legend"
        told = self.ssh(
            host, f"{list_units} --state=active {ours}; {list_units} --state=failed | sed 's/$/ !/'"
        )
        return {
            unit + " has failed" * line.endswith("!")
            for line in told.splitlines()
            for unit in line.split()[:1]
        }

    def settings(self, host: str) -> set[str]:
        """What the deployment has set on a host, file by file."""
        return set(self.ssh(host, "find /etc/heartcode -type f -exec sha256sum {} +").splitlines())

    def limits(self, rig: str) -> set[str]:
        """What is set on a rig's cards: a card that was gone has forgotten it."""
        query = "nvidia-smi --query-gpu=uuid,power.limit,persistence_mode --format=csv,noheader"
        return set(self.ssh(rig, query, check=False).splitlines())

    def signal_working(self, signal: str, *rigs: str) -> tuple[str, int] | None:
        """Send a signal to one backend that generates just now, if there is one.

        The rig itself finds it: what is told here of it may be over when the signal is sent.
        """
        for rig in rigs or self.rigs:
            told = self.ssh(
                rig,
                "for n in $(ls /etc/heartcode/llama | sed -n 's/[.]env$//p'); do"
                " curl -s http://127.0.0.1:$((8081 + n))/slots | grep -q 'is_processing\":true'"
                f" && systemctl kill --signal={signal} heartcode-llama@$n && echo $n && break;"
                " done; true",
            )
            if told:
                return rig, int(told)
        return None

    def is_working(self, rig: str, number: int) -> bool:
        """Whether a backend generates just now."""
        slots = self.ssh(rig, f"curl -s http://127.0.0.1:{8081 + number}/slots")
        return any(slot["is_processing"] for slot in json.loads(slots))

    def answered(self, rig: str) -> float:
        """Inference requests that a rig's proxy has answered with 200; 0 if it cannot be asked."""
        try:
            text = requests.get(f"http://{self.addresses[rig]}:9091/metrics", timeout=5).text
        except requests.RequestException:
            return 0
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("inference_requests_total{") and 'status="200"' in line
        )

    def metrics(self, query: str, *, check: bool = True) -> list[dict[str, Any]]:
        """Ask the fleet's Prometheus, through the gateway host since it listens only there.

        Without `check` one that cannot be asked knows of nothing.
        """
        answer = self.ssh(
            "gateway",
            "python3 -c 'import sys,urllib.parse,urllib.request as r;"
            'print(r.urlopen("http://127.0.0.1:9090/api/v1/query?query="+'
            f"urllib.parse.quote(sys.argv[1])).read().decode())' '{query}'",
            check=check,
        )
        result: list[dict[str, Any]] = json.loads(answer)["data"]["result"] if answer else []
        return result


def log_line(fleet: Fleet, identity: str) -> dict[str, Any]:
    """What the gateway has logged of a request, which it does when it is over."""
    found = wait_for(
        lambda: fleet.ssh(
            "gateway", f"grep -h {identity} /var/log/nginx/heartcode.log", check=False
        ),
        f"the gateway logs {identity}",
    )
    line: dict[str, Any] = json.loads(found)
    return line


def proxy_lines(fleet: Fleet, identity: str) -> list[dict[str, Any]]:
    """What the rigs' proxies have logged of a request, which they do after its last byte."""
    read = f"journalctl --sync && journalctl --unit=heartcode --output=cat | grep {identity}"

    def told() -> list[dict[str, Any]]:
        logs = "\n".join(fleet.ssh(rig, read, check=False) for rig in fleet.rigs)
        return [json.loads(line) for line in logs.splitlines() if line]

    lines: list[dict[str, Any]] = wait_for(told, f"a proxy logs {identity}")
    return lines
