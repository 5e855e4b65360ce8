#!/usr/bin/env python3
"""Decide what to measure on cards and what is best of it; ``playbooks/tune.yml`` runs it.

The work is done in ``heartcode_models.tuning``; this file only makes it a command.
"""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("tune.py: needs Python 3.11 or later")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_models.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
