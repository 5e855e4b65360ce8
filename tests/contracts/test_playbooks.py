"""What must hold for every playbook."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contracts.test_preflights import BLOCKS, ROLE, ROOT, TASKS, load

PLAYBOOKS = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))
NOTES = "/var/lib/heartcode/undone"
INCLUDE_THEMSELVES = ("progress.yml", "follow.yml")


def reached(tasks: list[dict[str, Any]], role: str = "") -> Iterator[dict[str, Any]]:
    """Each task that a list of tasks leads to, in their order."""
    for task in tasks:
        yield task
        for part in BLOCKS:
            yield from reached(task.get(part, []), role)
        for name in task.keys() & TASKS:
            file = task[name] if isinstance(task[name], str) else task[name]["file"]
            if "{{" not in file and file not in INCLUDE_THEMSELVES:
                yield from reached(load(f"roles/{role}/tasks/{file}"), role)
        for name in task.keys() & ROLE:
            other, file = task[name]["name"], task[name].get("tasks_from", "main")
            yield from reached(load(f"roles/{other}/tasks/{file}.yml"), other)


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_notes_of_what_was_changed_are_taken_away_at_the_end(playbook: str) -> None:
    """Else every later run would take it all in again (plugins/modules/host_files.py)."""
    plays = [play for play in load(f"playbooks/{playbook}") if "hosts" in play]
    parts = [play.get(part, []) for play in plays for part in ("tasks", "post_tasks")]
    found = [task for part in parts for task in reached(part)]
    writes = [at for at, task in enumerate(found) if "host_files" in task]
    forgets = [
        at
        for at, task in enumerate(found)
        if str(task.get("ansible.builtin.file", {}).get("path")).startswith(NOTES)
    ]
    assert bool(writes) == bool(forgets)
    assert not writes or forgets[-1] > writes[-1]


def test_what_writes_files_is_found() -> None:
    assert (
        sum(
            "host_files" in task
            for task in reached(load("roles/gateway/tasks/main.yml"), "gateway")
        )
        > 5
    )
