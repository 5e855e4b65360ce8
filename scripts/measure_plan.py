#!/usr/bin/env python3
"""Compare plans with a real llama-server: ``scripts/measure_plan.py --gpu UUID``.

Needs the virtual environment (`make bootstrap`): ``.venv/bin/python scripts/measure_plan.py``.
"""

import sys

from planlib.measure import main

if __name__ == "__main__":
    sys.exit(main())
