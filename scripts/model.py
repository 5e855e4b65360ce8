#!/usr/bin/env python3
"""What the roles ``model`` and ``model_mirror`` run on the control node.

The work is done in ``heartcode_models.files``. People use ``scripts/download_model.sh``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_models.files.role import main

if __name__ == "__main__":
    sys.exit(main())
