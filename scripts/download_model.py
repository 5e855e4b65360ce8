"""What ``scripts/download_model.sh`` runs. The work is done in ``heartcode_models``."""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("download_model.sh: needs Python 3.11 or later")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

try:
    from heartcode_models.cli.download import main
except ModuleNotFoundError as error:
    sys.exit(f"download_model.sh: the package {error.name} is not installed: run `make bootstrap`")

if __name__ == "__main__":
    sys.exit(main())
