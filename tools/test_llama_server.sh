#!/usr/bin/env bash
# Prints the command that runs the real llama-server on this machine, for the integration tests.
#
# The binary is the fleet's own: the role llama_cpp builds it in a virtual rig (once; the package stays
# in the cache), and it runs here with that rig's C library, since this machine's may be older.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${HEARTCODE_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heartcode}
suite=trixie
# What the package depends on: the role, and the variables of the virtual rigs.
key=$(find roles/llama_cpp inventory/virtual -type f -print0 | sort -z | xargs -0 cat | sha256sum | cut -c1-16)
version_file=$cache/llama.cpp/test-$key.version

if ! [[ -s $version_file && -s $cache/llama.cpp/$(cat "$version_file").tar.gz ]]; then
    echo "Building llama-server in a virtual rig; this is done once." >&2
    export HEARTCODE_FLEET_DIR=$PWD/.fleet-build
    trap 'scripts/fleet.py destroy >&2' EXIT
    scripts/fleet.py create rig1 --suite "$suite" >&2
    mkdir -p "${version_file%/*}"
    # Nobody has plugged cards into this rig.
    .venv/bin/ansible-playbook -i inventory/virtual playbooks/build.yml --limit rig1 \
        -e '{"gpu_driver_mode": "none", "llama_server_gpus": []}' -e "build_version_file=$version_file" >&2
fi

version=$(cat "$version_file")
if ! [[ -x $cache/llama.cpp/$version/bin/llama-server ]]; then
    tar --extract --gzip --file="$cache/llama.cpp/$version.tar.gz" --directory="$cache/llama.cpp"
fi
root=$(scripts/fleet.py image --suite "$suite")
echo "$root/usr/lib64/ld-linux-x86-64.so.2 --library-path $root/usr/lib/x86_64-linux-gnu" \
    "$cache/llama.cpp/$version/bin/llama-server"
