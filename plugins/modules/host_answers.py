#!/usr/bin/python3
"""What programs of a host answer, several in one go (docs/adr/0023)."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

# Ansible writes the arguments into these two lines and sends the file as it is (a "JSONARGS
# module"). With Ansible's module_utils a host would compile thousands of lines anew at each task.
# <<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>
ARGUMENTS = "<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>"

DOCUMENTATION = """
module: host_answers
short_description: Ask programs of a host, and change nothing
description:
  - Runs programs side by side that only tell something, in check mode as well. A program that
    fails or is not there is an answer, too; who asks says what that means.
options:
  ask:
    description: The commands by the names of their answers.
    type: dict
    required: true
"""

RETURN = """
answers:
  description: By name, C(rc) (127 without such a program), C(stdout), C(stdout_lines), C(stderr).
  type: dict
  returned: always
"""


def start(command: list[str]) -> subprocess.Popen[str] | OSError:
    """Start a program; what kept it from starting is returned, not raised."""
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            text=True,
            errors="replace",
        )
    except OSError as error:
        return error


def answer(started: subprocess.Popen[str] | OSError) -> dict[str, Any]:
    """Wait for a program's end and return what it said."""
    if isinstance(started, OSError):
        return {"rc": 127, "stdout": "", "stdout_lines": [], "stderr": str(started)}
    out, err = started.communicate()
    out = out.rstrip("\r\n")
    return {
        "rc": started.returncode,
        "stdout": out,
        "stdout_lines": out.splitlines(),
        "stderr": err.rstrip("\r\n"),
    }


def main() -> None:
    """Ask all of them."""
    # They are read one after the other, so a program with much to say may wait for its turn.
    started = {
        name: start([str(part) for part in command])
        for name, command in json.loads(ARGUMENTS)["ask"].items()
    }
    answers = {name: answer(one) for name, one in started.items()}
    print(json.dumps({"changed": False, "answers": answers}))


if __name__ == "__main__":
    main()
