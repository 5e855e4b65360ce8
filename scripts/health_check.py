"""What ``scripts/health_check.sh`` runs. The work is done in ``heartcode_check``."""

import sys
from pathlib import Path

if sys.version_info < (3, 9):  # noqa: UP036 (the one place that can say so in words)
    print("health_check.sh: needs Python 3.9 or later", file=sys.stderr)
    sys.exit(2)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_check.cli import main

if __name__ == "__main__":
    sys.exit(main())
