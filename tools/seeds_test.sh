#!/usr/bin/env bash
# Runs the property tests with the seeds 1 to RUNS, JOBS of them at a time: seeds_test.sh RUNS JOBS
# A test that is red with any seed is wrong, or what it tests is; the first one ends this.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=$1 jobs=$2

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
mapfile -t files < <(grep -rlE --include='test_*.py' '^from hypothesis' tests | sort)

with_seed() {
    local log=$logs/$1 seed=$1
    shift
    # A hundred times what it takes: this only ends what would never end.
    timeout 1800 pytest -q -p no:cacheprovider -m hypothesis --hypothesis-seed="$seed" "$@" >"$log" 2>&1 && return
    cat "$log"
    echo "Red with --hypothesis-seed=$seed"
    return 255 # xargs starts no further one
}
export logs
export -f with_seed
# shellcheck disable=SC2016  # that shell's own
seq "$runs" | xargs -P "$jobs" -I{} bash -c 'with_seed "$@"' bash {} "${files[@]}"
echo "Green with $runs seeds"
tail -n 1 "$logs/1"
