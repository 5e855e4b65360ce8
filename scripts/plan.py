#!/usr/bin/env python3
"""Say what a rig's cards can serve: ``scripts/plan.py "P106-100 x 6, 4 GB RAM"``.

The work is done in ``heartcode_models.planner``; this file only makes it a command.
"""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("plan.py: needs Python 3.11 or later")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_models.cli.plan import main

if __name__ == "__main__":
    sys.exit(main())
