#!/usr/bin/env python3
"""Own a fleet of virtual rigs: real systemd hosts in systemd-nspawn, reached by ssh.

Run ``scripts/fleet.py --help``. The work is done in ``tools.fleet``; this file only makes it a
command that runs with the system's Python, before any virtual environment exists.
"""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("fleet.py: needs Python 3.11 or later")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from tools.fleet.cli import main

if __name__ == "__main__":
    sys.exit(main())
