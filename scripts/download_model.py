"""What ``scripts/download_model.sh`` runs. The work is done in ``modellib``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (the one place that can say so in words)
    sys.exit("download_model.sh: needs Python 3.11 or later")

try:
    from modellib.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"download_model.sh: the package {error.name} is not installed: run `make bootstrap`")

if __name__ == "__main__":
    sys.exit(main())
