#!/usr/bin/env python3
"""Write the demo model, a small GGUF that counts.

    scripts/make_demo_model.py counting.gguf
    scripts/make_demo_model.py --dead-weight-mib 1024 slow.gguf

The work is done in ``heartcode_models.demo``; this file only makes it a command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_models.cli.make_demo_model import main

if __name__ == "__main__":
    main()
