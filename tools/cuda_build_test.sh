#!/usr/bin/env bash
# Builds llama.cpp with CUDA in a virtual Debian 13 rig, by the real roles and with Debian's real toolkit,
# and looks into what comes out: code for sm_61 and nothing else, no AVX.
#
# The rig has no card: the new llama-server has to count on the CPU before it is installed. It takes a
# download of 2 GB, 8 GB of disk and 33 minutes of CPU time; ccache and the packages are kept, so that a
# second run takes minutes. CUDA's 5 GB go with the rig.
set -euo pipefail
cd "$(dirname "$0")/.."

export HEARTCODE_FLEET_DIR=$PWD/.fleet-cuda
trap 'scripts/fleet.py destroy' EXIT
scripts/fleet.py create rig1 --suite trixie

started=$SECONDS
# A cache of its own, so that the rig really builds.
.venv/bin/ansible-playbook -i inventory/virtual tests/cuda_build/build.yml \
    -e "llama_cpp_control_cache_dir=$HEARTCODE_FLEET_DIR/llama.cpp"
built=$((SECONDS - started))
.venv/bin/pytest tests/cuda_build
echo "CUDA's toolkit installed and llama.cpp built in $((built / 60)) min $((built % 60)) s on $(nproc) cores."
