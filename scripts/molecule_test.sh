#!/usr/bin/env bash
# Runs the molecule scenario of tests/molecule on a virtual fleet of its own:
#
#   scripts/molecule_test.sh [test|create|converge|verify|destroy]
#
# The fleet lies in .fleet-test, so that one that a person works with is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-test}
export HEARTCODE_FLEET_DIR=$PWD/.fleet-test
export MOLECULE_GLOB="$PWD/tests/molecule/*/molecule.yml"
export ANSIBLE_HOME=$PWD/.ansible
# Molecule calls Ansible's programs by their names.
export PATH=$PWD/.venv/bin:$PATH
export HEARTCODE_FLEET_TESTS_LOG=$PWD/.ansible/fleet-tests.txt
rm -f "$HEARTCODE_FLEET_TESTS_LOG"

cleanup() {
    status=$?
    # What a person needs to see why it failed, before the fleet is gone.
    if ((status)) && [[ $action == test && -e $HEARTCODE_FLEET_DIR/fleet.json ]]; then
        scripts/fleet.py list || true
        scripts/fleet.py destroy || true
    fi
    # Last, since of a long output often only the end is kept.
    if [[ -e $HEARTCODE_FLEET_TESTS_LOG ]]; then
        failed=$(grep -E '^(E  |FAILED|ERROR)' "$HEARTCODE_FLEET_TESTS_LOG" | cut -c -200 | tail -n 25 || true)
        if ((status == 0)) && [[ $failed ]]; then
            echo "These tests are not steady: they have failed, and passed when asked again."
        fi
        printf '%s' "${failed:+$failed$'\n'}"
    fi
}
trap cleanup EXIT

molecule "$action"
