#!/usr/bin/env bash
# Runs the proxy in the foreground, as heartcode.service does: the same program, the same gunicorn
# configuration. ^C ends it.
#
#     BACKENDS=http://127.0.0.1:8081,http://127.0.0.1:8082 PORT=8080 scripts/run_proxy.sh
#
# Every HEARTCODE_ variable works too; PYTHON names another interpreter than .venv's.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}

export HEARTCODE_BACKENDS=${BACKENDS:-${HEARTCODE_BACKENDS:-}}
export HEARTCODE_LISTEN=${HEARTCODE_LISTEN:-127.0.0.1}
if [[ -z $HEARTCODE_BACKENDS ]]; then
    echo "run_proxy.sh: say where llama-server runs, e.g. BACKENDS=http://127.0.0.1:8081" >&2
    exit 2
fi
if [[ ! -x $python ]]; then
    echo "run_proxy.sh: there is no $python; 'make bootstrap' sets it up" >&2
    exit 2
fi

run_dir=$(mktemp -d -t heartcode.XXXXXX)
master=
# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    if [[ -n $master ]]; then
        kill -TERM "$master" 2>/dev/null || true
        wait "$master" || true
    fi
    rm -rf "$run_dir"
}
trap clean_up EXIT
trap 'exit 0' INT TERM
export HEARTCODE_RUN_DIR=$run_dir HEARTCODE_METRICS_DIR=$run_dir/metrics HEARTCODE_LEARNT_DIR=$run_dir/learnt

cd "$root/app"
# In the background, for a trap runs only between commands and `wait` is one that it interrupts.
"$python" -m heartcode.master &
master=$!
status=0
wait "$master" || status=$?
master=
exit "$status"
