#!/usr/bin/env python3
"""Compare plans with a real llama-server: ``tools/measure_plan.py --gpu UUID``.

Needs the virtual environment (`make bootstrap`): ``.venv/bin/python tools/measure_plan.py``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from tools.planning.measure import main

if __name__ == "__main__":
    sys.exit(main())
