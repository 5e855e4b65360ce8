#!/usr/bin/env python3
"""What the roles ``model`` and ``model_mirror`` run on the control node; see ``modellib.role``.

People use ``scripts/download_model.sh``.
"""

import sys

from modellib.role import main

if __name__ == "__main__":
    sys.exit(main())
