#!/usr/bin/env python3
"""Measure an OpenAI-compatible server: ``scripts/benchmark.py --url http://gateway:4000``.

The work is done in ``heartcode_benchmark``; this file only makes it a command.
"""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("benchmark.py: needs Python 3.11 or later")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
