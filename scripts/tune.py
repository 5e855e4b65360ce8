#!/usr/bin/env python3
"""Decide what to measure on cards and what is best of it; ``playbooks/tune.yml`` runs it.

The work is done in ``tunelib``; this file only makes it a command.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("tune.py: needs Python 3.11 or later")

from tunelib.cli import main

if __name__ == "__main__":
    sys.exit(main())
