#!/usr/bin/env bash
# Says, check by check, what works at a HeartCode address: see --help. The work is done in app/heartcode_check, which
# needs nothing but Python.
set -euo pipefail

command -v python3 >/dev/null || {
    echo "health_check.sh: python3 is not installed: apt-get install python3" >&2
    exit 2
}
scripts=$(dirname -- "$(readlink -f -- "$0")")
exec python3 "$scripts/health_check.py" "$@"
