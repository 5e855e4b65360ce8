#!/usr/bin/env python3
"""Measure an OpenAI-compatible server: ``scripts/benchmark.py --url http://gateway:4000``.

The work is done in ``loadlib``; this file only makes it a command.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("benchmark.py: needs Python 3.11 or later")

from loadlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
