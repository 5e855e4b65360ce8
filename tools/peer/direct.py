#!/usr/bin/env python3
"""Stands where llama.cpp's tests look for llama-server: the real one, with the counting model."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.peer.arguments import COMMAND, MODEL, understood


def main() -> None:
    """Become the llama-server that the test wants."""
    wanted = understood(sys.argv[1:], model=os.environ[MODEL])
    command = [*shlex.split(os.environ[COMMAND]), *wanted.rest, *wanted.key]
    os.execv(command[0], [*command, "--port", str(wanted.port)])  # noqa: S606


if __name__ == "__main__":
    main()
