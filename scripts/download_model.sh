#!/usr/bin/env bash
# Downloads a model of models/catalogue.toml, verified: scripts/download_model.sh stheno Q4_K_M
# See --help. The work is done in app/heartcode_models.
set -euo pipefail

scripts=$(dirname -- "$(readlink -f -- "$0")")
python=$scripts/../.venv/bin/python
[[ -x $python ]] || python=python3
command -v "$python" >/dev/null || {
    echo "download_model.sh: python3 is not installed: apt-get install python3" >&2
    exit 1
}
exec "$python" "$scripts/download_model.py" "$@"
