#!/usr/bin/env bash
# Deploys to a virtual fleet of its own with molecule (tests/molecule), runs the tests of tests/fleet on it and ends it:
#
#   tools/molecule_test.sh [test|verify [PYTEST ARGUMENTS]]
#   tools/molecule_test.sh create|check|converge|idempotence|destroy
#
# `test` goes through $STEPS, which are molecule's.
#
# The fleet lies in .fleet-test, so that one that a person works with is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-test}
shift || true
export HEARTCODE_FLEET_DIR=$PWD/.fleet-test
export MOLECULE_GLOB="$PWD/tests/molecule/*/molecule.yml"
export ANSIBLE_HOME=$PWD/.ansible
# Molecule calls Ansible's programs by their names.
export PATH=$PWD/.venv/bin:$PATH

verify() {
    pytest -m 'not ci and not long' --durations=20 tests/fleet "$@"
}

# What a person needs to see why it failed, before the fleet is gone.
end_after_failure() {
    if [[ -e $HEARTCODE_FLEET_DIR/fleet.json ]]; then
        scripts/fleet.py list || true
        scripts/fleet.py destroy || true
    fi
}

case $action in
    test)
        molecule destroy
        trap end_after_failure EXIT
        for step in $STEPS; do
            molecule "$step"
        done
        verify "$@"
        trap - EXIT
        molecule destroy
        ;;
    verify) verify "$@" ;;
    *) molecule "$action" ;;
esac
