#!/usr/bin/env bash
# Prints the command that runs the server of a llama.cpp that is newer than the pinned one, for the tests of `make
# test-next`: what comes with the next update is known before it. Its packages are pinned in next_llama_server.txt.
set -euo pipefail
cd "$(dirname "$0")"

cache=${HEARTCODE_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heartcode}
environment=$cache/llama.cpp/next-$(sha256sum next_llama_server.txt | cut -c1-16)
if ! [[ -e $environment/.installed ]]; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
        --require-hashes --requirement next_llama_server.txt >&2
    touch "$environment/.installed"
fi
echo "$environment/bin/python $PWD/next_llama_server.py"
