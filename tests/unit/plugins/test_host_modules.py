"""host_files and host_answers as Ansible runs them, on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
