"""host_files and host_answers as Ansible runs them, on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugins.modules.host_files import Host

ROOT = Path(__file__).parents[3]


class Play:
    """Runs tasks in one play; `self[name]` is what the task of that name came to."""

    def __init__(self, directory: Path, tasks: list[dict[str, Any]], *options: str) -> None:
        for task in tasks:
            task["ignore_errors"] = True
        file = directory / "play.yml"
        play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
        file.write_text(json.dumps([play]))
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", "localhost,", "-c", "local", "-e", f"place={directory}"),
                *("-e", f"ansible_python_interpreter={sys.executable}", *options, str(file)),
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                "ANSIBLE_HOME": str(directory / "ansible"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout[done.stdout.index("{") :])
        self._results = {
            task["task"]["name"]: task["hosts"]["localhost"] for task in told["plays"][0]["tasks"]
        }

    def __getitem__(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self._results[name]
        return result


def have(name: str, *files: dict[str, Any]) -> dict[str, Any]:
    """A task; the files belong to whoever runs the tests."""
    owned = [{"owner": os.geteuid(), "group": os.getegid(), **file} for file in files]
    return {"name": name, "host_files": {"files": owned}}


FIRST = (
    {"path": "{{ place }}/new", "state": "directory", "mode": "0700"},
    {"path": "{{ place }}/new/text", "content": "a\n", "mode": "0640"},
    {"path": "{{ place }}/new/page", "src": "{{ place }}/files/page"},
    {"path": "{{ place }}/new/rendered", "template": "text.j2", "vars": {"number": 3}},
    {"path": "{{ place }}/new/link", "target": "text"},
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "files/page/deep").mkdir(parents=True)
    (tmp_path / "files/page/deep/a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/text.j2").write_text(
        "# {{ ansible_managed }}\n{% if number > 2 %}\nnumber {{ number }}\n{% endif %}\n"
    )
    return tmp_path


def test_what_is_asked_for_is_there_once(place: Path) -> None:
    dry = Play(place, [have("dry", *FIRST)], "--check", "--diff")
    assert dry["dry"]["changed"]
    assert not (place / "new").exists()
    assert [diff["after_header"] for diff in dry["dry"]["diff"]] == dry["dry"]["paths"]

    play = Play(place, [have("first", *FIRST), have("second", *FIRST)])
    new = place / "new"
    assert play["first"]["paths"] == dry["dry"]["paths"]
    assert str(new / "page/deep/a.bin") in play["first"]["paths"]
    assert (play["second"]["changed"], play["second"]["paths"]) == (False, [])
    assert (new / "page/deep/a.bin").read_bytes() == bytes(range(256))
    assert (new / "rendered").read_text() == "# Ansible managed\nnumber 3\n"
    assert (new / "link").readlink() == Path("text")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (new, *new.iterdir())}
    assert modes == {
        "new": "0o700",
        "text": "0o640",
        "page": "0o755",
        "rendered": "0o644",
        "link": "0o640",  # what it points to
    }
    assert list(place.rglob("*.part")) == []


def test_only_what_differs_changes(place: Path) -> None:
    kept, other = {"path": "{{ place }}/kept", "content": "1"}, {"path": "{{ place }}/other"}
    link = {"path": "{{ place }}/link"}
    play = Play(
        place,
        [
            have("before", kept, other | {"content": "1"}, link | {"target": "kept"}),
            have("after", kept, other | {"content": "2"}, link | {"target": "other"}),
            have("mode", kept | {"mode": "0600"}),
            have("gone", other | {"state": "absent"}, link | {"state": "absent"}),
            have("still gone", other | {"state": "absent"}),
            have("none"),
        ],
    )
    assert play["after"]["paths"] == [str(place / "other"), str(place / "link")]
    assert play["mode"]["paths"] == [str(place / "kept")]
    assert play["gone"]["paths"] == [str(place / "other"), str(place / "link")]
    assert not play["still gone"]["changed"]
    assert not play["none"]["changed"]
    assert (place / "kept").stat().st_mode & 0o777 == 0o600


def test_what_does_not_pass_leaves_the_file_as_it_is(place: Path) -> None:
    file = {"path": "{{ place }}/checked", "validate": "grep -q good %s"}
    play = Play(
        place,
        [
            have("good", file | {"content": "good"}),
            have("bad", {"path": "{{ place }}/before", "content": ""}, file | {"content": "bad"}),
        ],
    )
    assert play["bad"]["failed"]
    assert f"{place}/checked was left as it is" in play["bad"]["msg"]
    assert (place / "checked").read_text() == "good"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"path": "/x"}, "is not a path with one of src, template, content, target, state"),
    "two things": ({"path": "/x", "content": "", "target": "y"}, "is not a path with one of"),
    "unknown": ({"path": "/x", "content": "", "colour": "red"}, "is not a path with one of"),
    "no state": ({"path": "/x", "state": "touch"}, "as a state it may be directory or absent"),
    "a directory": ({"path": "{{ place }}", "content": ""}, "is there, and is a directory"),
    "a file": ({"path": "{{ place }}/play.yml", "state": "directory"}, "and is no directory"),
    "no link": ({"path": "{{ place }}/play.yml", "target": "x"}, "and is no symbolic link"),
    "no parent": ({"path": "{{ place }}/no/file", "content": ""}, "No such file or directory"),
    "no source": ({"path": "{{ place }}/x", "src": "absent"}, "Could not find or access"),
}


def test_what_cannot_be_is_refused(place: Path) -> None:
    play = Play(place, [have(name, file) for name, (file, _) in REFUSED.items()])
    told = {name: play[name].get("failed") and play[name]["msg"] for name in REFUSED}
    assert [name for name, (_, why) in REFUSED.items() if why not in str(told[name])] == [], told


def test_what_a_run_has_left_undone_counts_as_changed(tmp_path: Path) -> None:
    """It may have ended before a handler; a play's end takes the notes away."""
    undone = tmp_path / "undone/role"

    def changed(*names: str, check_mode: bool = False) -> list[str]:
        host = Host(check_mode=check_mode, undone=undone)
        for name in names:
            told = {"path": str(tmp_path / name), "state": "file", "content": "YQo="}
            host.have(told | {"mode": "0644", "owner": os.geteuid(), "group": os.getegid()})
        return [Path(path).name for path in host.paths]

    assert changed("a", check_mode=True) == ["a"]
    assert not undone.exists()
    assert changed("a") == ["a"]
    # Another run finds it written, and does not know whether anybody has heard of that.
    assert changed("a", "b") == ["a", "b"]
    (tmp_path / "b").chmod(0o600)
    undone.unlink()
    assert changed("a", "b") == ["b"]
    assert undone.read_text() == f"{tmp_path / 'b'}\n"


def test_answers_are_those_of_the_programs(tmp_path: Path) -> None:
    ask = {
        "lines": ["printf", "a\\nb\\n"],
        "fails": ["sh", "-c", "echo why >&2; exit 3"],
        "absent": ["/nowhere/program"],
    }
    play = Play(tmp_path, [{"name": "asked", "host_answers": {"ask": ask}}], "--check")
    answers = play["asked"]["answers"]
    assert not play["asked"]["changed"]
    assert answers["lines"] == {"rc": 0, "stdout": "a\nb", "stdout_lines": ["a", "b"], "stderr": ""}
    assert (answers["fails"]["rc"], answers["fails"]["stderr"]) == (3, "why")
    assert answers["absent"]["rc"] == 127


def rules(name: str, *given: Any) -> dict[str, Any]:
    return {"name": name, "host_rules": {"rules": list(given)}, "vars": {"three": 3}}


def rule(that: Any, **more: Any) -> dict[str, Any]:
    return {"rule": "It is so", "that": that, "fail_msg": "It is not: {{ three }}", **more}


RULES: dict[str, tuple[list[Any], str]] = {
    # The message of a rule that holds is never rendered.
    "all hold": ([rule("three == 3"), rule(["true", "three > 2"], fail_msg="{{ nowhere }}")], ""),
    "the second is broken": ([rule("true"), rule("three == 4"), rule("false")], "It is not: 3"),
    "one of several conditions": ([rule(["three == 3", "three == 4"])], "It is not: 3"),
    "it is none here": ([rule("false", when="three == 4"), rule("no.such", when=["false"])], ""),
    "it is one here": ([rule("false", when=["true", "three == 3"])], "It is not: 3"),
    "its own variables": (
        [rule("six == 6", vars={"six": "{{ three * 2 }}"}), rule("six is defined")],
        "It is not: 3",
    ),
    "its variables in the message": (
        [rule("six == 7", vars={"six": "{{ three * 2 }}"}, fail_msg="{{ six }}!")],
        "6!",
    ),
    "no condition": ([{"rule": "It is so", "fail_msg": ""}], "lacks that"),
    "something unheard of": ([rule("true", loop=[1])], "a rule has rule, that, fail_msg, when"),
    "no rules": (["true"], "a rule has rule, that, fail_msg, when, vars; this one is true"),
}


@pytest.mark.parametrize("options", [[], ["--check"]], ids=["run", "dry run"])
def test_the_first_rule_that_is_broken_is_told(tmp_path: Path, options: list[str]) -> None:
    play = Play(tmp_path, [rules(name, *given) for name, (given, _) in RULES.items()], *options)
    told = {name: play[name]["msg"] if play[name].get("failed", False) else "" for name in RULES}
    assert [
        name for name, (_, why) in RULES.items() if (why or "-") not in (told[name] or "-")
    ] == []
    assert not any(play[name]["changed"] for name in RULES if "changed" in play[name])
    assert play["one of several conditions"]["assertion"] == "three == 4"
    assert play["one of several conditions"]["rule"] == "It is so"


# A systemctl with what the module asks of it. It hides what units do: tests/fleet has real ones.
# One starts unless it is broken, or there is something bad in its file.
SYSTEMCTL = """#!{python}
import json, sys
from pathlib import Path
home = Path(__file__).parent
file = home / "units.json"
state = json.loads(file.read_text())
verb, *rest = sys.argv[1:]
names = [word for word in rest if not word.startswith("--")]
with (home / "log").open("a") as log:
    print(verb, *names, file=log)
units = state["units"]
if verb == "show":
    if names and names[0].endswith("*"):
        print("NeedDaemonReload=no\\n\\nNeedDaemonReload=" + state["outdated"])
    else:
        absent = {{"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""}}
        blocks = [units.get(name, absent) for name in names]
        print("\\n\\n".join("\\n".join("=".join(p) for p in block.items()) for block in blocks))
elif verb == "daemon-reload":
    state["outdated"] = "no"
    units |= state.pop("new", {{}})
else:
    (name,) = names
    settings = home / (name + ".env")
    mark = home / (name.split(".")[0] + ".wanted.begun")
    state["marked"] = state.get("marked", []) + [verb + " " + name] * mark.exists()
    is_bad = settings.exists() and "bad" in settings.read_text()
    if name in state["broken"] or verb in ("start", "restart") and is_bad:
        units[name]["ActiveState"] = "failed" if is_bad else units[name]["ActiveState"]
        file.write_text(json.dumps(state))
        sys.exit("Job for " + name + " failed.")
    new = {{
        "enable": {{"UnitFileState": "enabled"}},
        "disable": {{"UnitFileState": "disabled"}},
        "stop": {{"ActiveState": "inactive"}},
    }}.get(verb, {{"ActiveState": "active"}})
    units[name] |= new
file.write_text(json.dumps(state))
"""


def unit(active: str = "active", file: str = "enabled", load: str = "loaded") -> dict[str, str]:
    return {"LoadState": load, "ActiveState": active, "UnitFileState": file, "MainPID": "7"}


class Systemd:
    """Plays tasks against a systemctl that knows these units."""

    def __init__(
        self,
        directory: Path,
        units: dict[str, Any],
        *,
        outdated: bool = False,
        new: dict[str, Any] | None = None,
        broken: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.file = directory / "units.json"
        state = {"units": units, "outdated": "yes" if outdated else "no", "broken": broken}
        self.file.write_text(json.dumps(state | ({"new": new} if new else {})))
        program = directory / "systemctl"
        program.write_text(SYSTEMCTL.format(python=sys.executable))
        program.chmod(0o755)
        journal = directory / "journalctl"
        journal.write_text("#!/bin/sh\necho a word from the log: $*\n")
        journal.chmod(0o755)

    def play(self, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the results of tasks that want() has made; `told` is what systemctl was told."""
        path = {"PATH": f"{self.directory}:{os.environ['PATH']}"}
        named = [{"name": str(n), "environment": path, **task} for n, task in enumerate(tasks)]
        self.log.unlink(missing_ok=True)
        play = Play(self.directory, named)
        lines = self.log.read_text().splitlines()
        self.told = [line for line in lines if not line.startswith("show")]
        return [play[task["name"]] for task in named]


def want(*units: dict[str, Any], dry: bool = False, **options: Any) -> dict[str, Any]:
    return {"host_units": {"units": list(units), **options}, "check_mode": dry}


WANTED = (
    {"name": "a.service", "enabled": True, "state": "started"},
    {"name": "b.timer", "enabled": True, "state": "started"},
    {"name": "c.service", "enabled": False, "state": "stopped"},
    {"name": "d.service", "state": "restarted"},
    {"name": "e.service", "state": "reloaded"},
    {"name": "f.socket", "enabled": True},
)


def test_units_become_what_they_shall_be_in_their_order(tmp_path: Path) -> None:
    units = {
        "a.service": unit(),
        "b.timer": unit("failed", "disabled"),
        "c.service": unit(),
        "d.service": unit(file="static"),
        "e.service": unit("inactive"),
        "f.socket": unit("inactive", "disabled"),
    }
    told = [
        *(
            "enable b.timer",
            "reset-failed b.timer",
            "start b.timer",
            "disable c.service",
            "stop c.service",
        ),
        *("restart d.service", "start e.service", "enable f.socket"),
    ]
    names = ["b.timer", "c.service", "d.service", "e.service", "f.socket"]
    systemd = Systemd(tmp_path, units)
    dry, result, again = systemd.play(want(*WANTED, dry=True), want(*WANTED), want(*WANTED[:3]))
    assert (dry["changed"], dry["names"]) == (True, names)
    assert (result["changed"], result["names"]) == (True, names)
    assert result["units"]["b.timer"] == unit()
    assert result["before"]["b.timer"] == unit("failed", "disabled")
    assert result["units"]["f.socket"]["ActiveState"] == "inactive"
    assert (again["changed"], again["names"]) == (False, [])
    # In the dry run and the second time there was nothing to tell it.
    assert systemd.told == told


def test_systemd_reads_its_files_where_they_have_changed(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {"a.service": unit()}, outdated=True)
    (dry,) = systemd.play(want(WANTED[0], dry=True))
    assert (dry["changed"], systemd.told) == (False, [])
    results = systemd.play(want(WANTED[0]), want(WANTED[0]))
    assert [result["changed"] for result in results] == [False, False]
    assert systemd.told == ["daemon-reload"]


def test_a_unit_that_has_come_since_systemd_looked_for_it(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {}, new={"a.service": unit("inactive", "disabled")})
    (result,) = systemd.play(want(WANTED[0]))
    assert result["names"] == ["a.service"]
    assert systemd.told == ["daemon-reload", "enable a.service", "start a.service"]


def test_a_unit_that_is_not_there(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {"a.service": unit()})
    absent = {"name": "x.service"}
    stopped: dict[str, Any] = {"state": "stopped"}
    unwanted: tuple[dict[str, Any], ...] = ({}, stopped, stopped | {"enabled": False})
    for result in systemd.play(*(want(absent | one, WANTED[0]) for one in unwanted)):
        assert (result["changed"], list(result["units"])) == (False, ["a.service"])
    wanted = ({"enabled": True}, {"state": "started"}, {"state": "reloaded"})
    for result in systemd.play(*(want(absent | one) for one in wanted)):
        assert "There is no unit x.service" in result["msg"]
    # A dry run may have installed none.
    for result in systemd.play(*(want(absent | one, dry=True) for one in wanted)):
        assert (result.get("failed", False), result["changed"]) == (False, False)


def test_a_unit_that_does_not_start(tmp_path: Path) -> None:
    units = {name: unit("inactive") for name in ("a.service", "b.service", "c.service")}
    wanted = [{"name": name, "state": "started"} for name in units]
    systemd = Systemd(tmp_path, units, broken=("b.service",))
    stopped, gone_on = systemd.play(want(*wanted), want(*wanted, go_on=True))
    why = "systemctl start -- b.service: Job for b.service failed."
    assert (stopped["failed"], stopped["msg"]) == (True, why)
    assert not gone_on.get("failed", False)
    assert gone_on["failures"] == {"b.service": why}
    assert systemd.told == [f"start {name}.service" for name in "abbc"]


def test_a_masked_unit_is_told(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {"a.service": unit("inactive", "masked", "masked")})
    refused, left = systemd.play(want(WANTED[0]), want({"name": "a.service", "state": "stopped"}))
    assert "`systemctl unmask a.service`" in refused["msg"]
    assert not left["changed"]


def with_files(place: Path, name: str, was: str, shall_be: str, **more: Any) -> dict[str, Any]:
    """A unit with a file that was one thing and shall be another; "" is none."""
    path, source = place / f"{name}.service.env", place / f"{name}.wanted"
    for file, content in ((path, was), (source, shall_be)):
        file.unlink(missing_ok=True)
        if content:
            file.write_text(content)
    if shall_be:
        source.chmod(0o640)
    files = [{"path": str(path), "source": str(source)} | more]
    return {"name": f"{name}.service", "state": "started", "files": files}


def env(place: Path, name: str) -> str:
    return (place / f"{name}.service.env").read_text()


def test_a_unit_is_started_anew_with_what_has_changed(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {f"{name}.service": unit() for name in "abc"})
    wanted = [
        with_files(tmp_path, "a", "old", "new"),
        with_files(tmp_path, "b", "same", "same"),
        with_files(tmp_path, "c", "old", "new", restarts=False),
    ]
    dry, held, done, again = systemd.play(
        want(*wanted, dry=True), want(*wanted, hold=True), want(*wanted), want(*wanted)
    )
    assert dry["names"] == ["a.service", "c.service"]
    assert (held["pending"], held["names"]) == (["a.service"], ["c.service"])
    assert (done["pending"], done["names"]) == ([], ["a.service"])
    assert not again["changed"]
    assert systemd.told == ["restart a.service"]
    assert [env(tmp_path, name) for name in "abc"] == ["new", "same", "new"]
    assert (tmp_path / "a.service.env").stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob(".*.env.*"))


def test_what_does_not_work_costs_one_unit_which_gets_back_what_it_had(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {f"{name}.service": unit() for name in "abc"})
    wanted = [with_files(tmp_path, name, "good", "bad") for name in "abc"]
    (result,) = systemd.play(want(*wanted, go_on=True))
    assert result["failed"]
    assert "a.service does not start any more, and those after it were left alone" in result["msg"]
    assert f"{tmp_path}/a.service.env is as before, and it serves with that again" in result["msg"]
    assert "a word from the log" in result["msg"]
    assert systemd.told == ["restart a.service", "reset-failed a.service", "restart a.service"]
    assert not list(tmp_path.glob("*.begun")), "what runs has what is in the files"
    assert [env(tmp_path, name) for name in "abc"] == ["good"] * 3
    units = json.loads(systemd.file.read_text())["units"]
    assert [units[f"{name}.service"]["ActiveState"] for name in "abc"] == ["active"] * 3


def test_a_unit_that_had_no_such_file_has_none_again(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {"a.service": unit()})
    (result,) = systemd.play(want(with_files(tmp_path, "a", "", "bad")))
    assert "it serves with that again" in result["msg"]
    assert not (tmp_path / "a.service.env").exists()


def test_what_neither_starts_with_the_new_nor_the_old_is_told(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {"a.service": unit()}, broken=("a.service",))
    (result,) = systemd.play(want(with_files(tmp_path, "a", "old", "new")))
    assert "but it does not start with that either: systemctl reset-failed" in result["msg"]
    assert env(tmp_path, "a") == "old"


def test_a_program_that_has_changed_stops_one_unit_as_well(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {f"{n}.service": unit() for n in "ab"}, broken=("a.service",))
    wanted = [{"name": f"{name}.service", "state": "restarted"} for name in "ab"]
    held, result = systemd.play(want(*wanted, hold=True), want(*wanted, go_on=True))
    assert (held["pending"], held["changed"]) == (["a.service", "b.service"], False)
    assert "those after it were left alone" in result["msg"]
    assert systemd.told == ["restart a.service"]


def test_a_run_that_ended_before_the_restart_is_made_up_for(tmp_path: Path) -> None:
    """What is in the files is what shall be, and what runs does not know it yet."""
    systemd = Systemd(tmp_path, {f"{name}.service": unit() for name in "ab"})
    wanted = [with_files(tmp_path, name, "old", "new") for name in "ab"]
    systemd.play(want(*wanted))
    assert json.loads(systemd.file.read_text())["marked"] == [
        "restart a.service",
        "restart b.service",
    ]
    assert not list(tmp_path.glob("*.begun"))

    (tmp_path / "b.wanted.begun").touch()  # as of a run that was killed
    dry, held = systemd.play(want(*wanted, dry=True), want(*wanted, hold=True))
    assert (dry["names"], held["pending"]) == (["b.service"], ["b.service"])
    (done,) = systemd.play(want(*wanted))
    assert (done["names"], systemd.told) == (["b.service"], ["restart b.service"])
    assert not list(tmp_path.glob("*.begun"))


def test_who_did_not_run_keeps_what_it_shall_have(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {f"{name}.service": unit("inactive") for name in "ab"})
    wanted = [with_files(tmp_path, "a", "old", "bad"), with_files(tmp_path, "b", "old", "new")]
    (result,) = systemd.play(want(*wanted, hold=True, go_on=True))
    assert list(result["failures"]) == ["a.service"]
    assert [env(tmp_path, name) for name in "ab"] == ["bad", "new"]


def test_a_unit_with_an_excuse_is_no_reason_to_stop(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {f"{n}.service": unit() for n in "ab"}, broken=("a.service",))
    (tmp_path / "excuse").touch()
    excuse = {"excused_by": str(tmp_path / "excuse")}
    wanted = [with_files(tmp_path, name, "old", "new") | excuse for name in "ab"]
    (result,) = systemd.play(want(*wanted, go_on=True))
    assert (result["names"], list(result["failures"])) == (
        ["a.service", "b.service"],
        ["a.service"],
    )
    assert [env(tmp_path, name) for name in "ab"] == ["new", "new"]


def test_a_file_without_a_source_is_told(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path, {"a.service": unit()})
    nothing, refused = systemd.play(
        want(with_files(tmp_path, "a", "old", "")), want(WANTED[0] | {"files": [{"path": "/x"}]})
    )
    assert not nothing["changed"]
    assert "a.service: a file has path and source" in refused["msg"]
