#!/usr/bin/env python3
"""What the role ``rig`` runs on the control node: what each backend of the rigs serves.

The work is done in ``heartcode_models.deployment``. People use ``scripts/plan.py``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_models.deployment.role import main

if __name__ == "__main__":
    sys.exit(main())
