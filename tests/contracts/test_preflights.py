"""Whatever looks at hosts before a deployment only reads, and all of it comes before any change.

So a refusal changes nothing, whatever is refused: the tests of refusals need not look for it.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in ROOT.glob("roles/*") if path.is_dir())

#: Modules that only read, beside those that only_reads() looks at more closely.
READS = {
    "ansible.builtin.assert",
    "ansible.builtin.debug",
    "ansible.builtin.fail",
    "ansible.builtin.find",
    "ansible.builtin.gather_facts",
    "ansible.builtin.getent",
    "ansible.builtin.include_vars",
    "ansible.builtin.package_facts",
    "ansible.builtin.service_facts",
    "ansible.builtin.set_fact",
    "ansible.builtin.setup",
    "ansible.builtin.slurp",
    "ansible.builtin.stat",
    "ansible.builtin.validate_argument_spec",
    "host_rules",
}

#: Beginnings of command lines that only read.
COMMANDS = (
    "apt-cache policy",
    "cat ",
    "df ",
    "dpkg-query --show ",
    "getent ",
    "grep ",
    "ip -4 -oneline address",
    "ip -4 -oneline route get ",
    "modinfo --field ",
    "mokutil --test-key ",
    "nft list table ",
    "nvcc --version",
    "nvidia-smi --query-gpu=",
    "openssl pkey -pubout -passin pass: -in ",
    "openssl x509 -noout -checkend 0 -in ",
    "openssl x509 -noout -pubkey -in ",
    "ss ",
    "stat --format=",
    "systemctl list-sockets ",
    "uname ",
    # On the control node.
    "{{ ansible_playbook_python }} {{ _model_repository }}/scripts/model.py describe",
    "{{ ansible_playbook_python }} {{ _model_repository }}/scripts/model.py pack",
    "{{ role_path }}/files/build_web_ui.sh check",
    "{{ ansible_playbook_python }} {{ role_path }}/../../scripts/backends.py",
    # What model.py pack has made.
    "{{ __model_pack.stdout }} check ",
    "{{ __model_pack.stdout }} shape ",
)

#: Whole commands and scripts that only read: anything may stand behind their beginnings.
SCRIPTS = (
    "find /lib/modules/ -name nvidia*.ko*",
    "find -L /lib/modules/ -maxdepth 3 -path */build/include",
    "find -L /var/lib/dkms/ -maxdepth 3 -name source -type l",
    "apt-get --simulate --with-new-pkgs upgrade",
    "linux-version list | linux-version sort",
    """
    for device in "$1"/*; do
      case "$(cat "$device/vendor" 2>/dev/null) $(cat "$device/class" 2>/dev/null)" in
      "0x10de 0x03"*)
        told=$(cat "$device/device" "$device/current_link_width" "$device/max_link_speed")
        echo "${device##*/}" $told
        ;;
      esac
    done
    sh {{ rig_pci_directory }}
    """,
)

#: Tasks that write on the control node all the same, by role and name.
WRITE_ON_THE_CONTROL_NODE = {
    # Into its cache: a wrong hash has to be known before any host is touched.
    ("llama_cpp", "Fetch and verify the source on the control node"),
}

#: Roles whose preflight asks whether another role ran before in the same play.
ASKED_LATER = {"exporter", "proxy"}

TASKS = {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"}
ROLE = {"ansible.builtin.import_role", "ansible.builtin.include_role"}
# Notify is none of them: who changes nothing has nothing to tell.
KEYWORDS = {
    "any_errors_fatal",
    "become",
    "changed_when",
    "check_mode",
    "delegate_to",
    "failed_when",
    "ignore_unreachable",
    "loop",
    "loop_control",
    "name",
    "no_log",
    "register",
    "run_once",
    "vars",
    "when",
}
BLOCKS = ("block", "rescue", "always")

Task = Mapping[str, Any]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def module(task: Task) -> str:
    (name,) = task.keys() - KEYWORDS
    return str(name)


def reached(tasks: list[Task], role: str) -> Iterator[tuple[str, Task]]:
    """Each task that a list of tasks leads to, with its role."""
    for task in tasks:
        if "block" in task:
            assert task.keys() <= KEYWORDS.union(BLOCKS), task
            for part in BLOCKS:
                yield from reached(task.get(part, []), role)
        elif module(task) in TASKS:
            given = task[module(task)]
            file = given if isinstance(given, str) else given["file"]
            yield from reached(load(f"roles/{role}/tasks/{file}"), role)
        elif module(task) in ROLE:
            given = task[module(task)]
            yield from entered(given["name"], given.get("tasks_from", "main"))
        else:
            yield role, task


def entered(name: str, tasks_from: str = "main") -> Iterator[tuple[str, Task]]:
    """Each task that a role leads to from one of its files."""
    # They would run before it, whole.
    assert load(f"roles/{name}/meta/main.yml")["dependencies"] == [], name
    yield from reached(load(f"roles/{name}/tasks/{tasks_from}.yml"), name)


def command_line(given: Any) -> str:
    if isinstance(given, dict):
        given = given.get("argv") or given.get("cmd")
    words = given.split() if isinstance(given, str) else given
    if words[:2] == ["timeout", "--kill-after=5"]:
        words = words[3:]
    return " ".join(words)


def asks_only(line: str) -> bool:
    """Whether a program that the module host_answers starts only tells something."""
    words = line.removeprefix("sh -c ").split()
    return line.startswith(COMMANDS) or words in [script.split() for script in SCRIPTS]


def only_reads(role: str, task: Task) -> bool:
    if (role, task["name"]) in WRITE_ON_THE_CONTROL_NODE:
        return bool(task["delegate_to"] == "localhost")
    used = module(task)
    given = task[used]
    # A dry run needs to know what it reads as well.
    told = task.get("changed_when") is False and task.get("check_mode") is False
    match used.removeprefix("ansible.builtin."):
        case "host_answers":
            asked = given["ask"]
            # A string is a template, and that filter makes questions of getent alone.
            return (
                asked.endswith("| address_questions }}")
                if isinstance(asked, str)
                else all(asks_only(command_line(ask)) for ask in asked.values())
            )
        case "command" | "script":
            return told and command_line(given).startswith(COMMANDS)
        case "shell":
            return told and given.split() in [script.split() for script in SCRIPTS]
        case "uri":
            return (
                given.get("method", "GET") in ("GET", "HEAD")
                and "dest" not in given
                and task.get("check_mode") is False
            )
    return used in READS


@pytest.mark.parametrize("role", ROLES)
def test_a_preflight_only_reads(role: str) -> None:
    tasks = list(entered(role, "preflight"))
    assert tasks
    assert [task["name"] for owner, task in tasks if not only_reads(owner, task)] == []


READING = {"changed_when": False, "check_mode": False}


@pytest.mark.parametrize(
    "task",
    [
        {"ansible.builtin.copy": {"content": "", "dest": "/etc/motd"}},
        {"ansible.builtin.command": "df /"},
        {"ansible.builtin.command": "df /", "changed_when": False},
        {"ansible.builtin.command": "df /", "check_mode": False},
        {"ansible.builtin.command": "rm /etc/motd", **READING},
        {"ansible.builtin.command": {"argv": ["nvidia-smi", "-pl", "100"]}, **READING},
        {"ansible.builtin.command": {"cmd": "systemctl stop nginx"}, **READING},
        {"ansible.builtin.script": "tidy.sh", **READING},
        {"ansible.builtin.shell": "cat /etc/motd >/etc/issue", **READING},
        {"ansible.builtin.shell": SCRIPTS[-1]},
        {"ansible.builtin.uri": {"url": "http://a", "method": "POST"}, **READING},
        {"ansible.builtin.uri": {"url": "http://a", "dest": "/etc/motd"}, **READING},
        {"host_answers": {"ask": {"room": ["df", "/"], "motd": ["rm", "/etc/motd"]}}},
        {"host_answers": {"ask": {"motd": ["sh", "-c", "cat /etc/motd; rm /etc/motd"]}}},
        {"host_answers": {"ask": {"modules": [*SCRIPTS[0].split(), "-delete"]}}},
        {"host_answers": {"ask": "{{ questions }}"}},
        {"host_units": {"units": [{"name": "nginx.service", "state": "stopped"}]}},
        {"host_files": {"files": [{"path": "/etc/motd", "content": ""}]}},
        {"unheard_of": {}},
    ],
)
def test_what_may_change_something_is_told_from_what_reads(task: Task) -> None:
    assert not only_reads("common", {"name": "It", **task})


@pytest.mark.parametrize("key", ["notify", "action", "local_action"])
def test_a_task_with_something_unheard_of_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="too many values"):
        list(reached([{"ansible.builtin.stat": {}, key: "It"}], "common"))


def looks_only(play: Mapping[str, Any]) -> bool:
    if play.keys() - {"name", "hosts", "become", "any_errors_fatal", "gather_facts", "tasks"}:
        return False
    return all(only_reads(role, task) for role, task in reached(play["tasks"], ""))


SITE = load("playbooks/site.yml")
EVERY = ["rigs", "gateways", "helpers"]
LOOKING = list(takewhile(looks_only, SITE))
CHANGING = SITE[len(LOOKING) :]


def hosts_of(play: Mapping[str, Any]) -> list[str]:
    """The groups that a play is for."""
    return re.findall("rigs|gateways|helpers|localhost", re.sub(" if .*? else ", "", play["hosts"]))


def entries(play: Mapping[str, Any], group: str) -> Iterator[tuple[str, str]]:
    """The roles that a play enters for all hosts of a group, and where."""
    for role in play.get("roles", []):
        yield role, "main"
    listed = play.get("tasks", [])
    for task in [one for block in listed for one in block.get("block", [block])]:
        when = task.get("when", f"inventory_hostname in groups.{group}")
        if task.keys() & ROLE and when == f"inventory_hostname in groups.{group}":
            given = task[module(task)]
            yield given["name"], given.get("tasks_from", "main")


def test_a_play_s_groups_are_told() -> None:
    told = [hosts_of(play) for play in SITE]
    assert told[:4] == [["localhost"], EVERY, EVERY, ["helpers"]]
    assert ["rigs", "helpers"] in told
    assert hosts_of({"hosts": "gateways:!rigs"}) == ["gateways", "rigs"]


@pytest.mark.parametrize("group", ["rigs", "gateways", "helpers"])
def test_a_deployment_asks_all_preflights_of_a_group_before_it_changes_anything(
    group: str,
) -> None:
    asked = {
        role
        for play in LOOKING
        if group in hosts_of(play) and play.get("any_errors_fatal") is True
        for role, entry in entries(play, group)
        if entry == "preflight"
    }
    used = {
        role
        for play in CHANGING
        if group in hosts_of(play)
        for role, entry in entries(play, group)
        if entry == "deploy"
    }
    assert len(used) > 5
    assert used - ASKED_LATER == asked
    # Nor are variables of a wrong type found later.
    assert "rolespec_validate" not in str(LOOKING)
    for role in asked:
        specs = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
        assert specs["preflight"] == specs["main"], role


def test_a_host_that_did_not_pass_stops_the_deployment_before_it_changes_anything() -> None:
    last = LOOKING[-1]
    assert (hosts_of(last), last["any_errors_fatal"]) == (EVERY, True)
    task = last["tasks"][0]
    assert task["ansible.builtin.assert"]["that"] == "_missing | length == 0"
    assert "when" not in task
