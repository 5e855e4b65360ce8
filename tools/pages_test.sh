#!/usr/bin/env bash
# Runs tests/pages, or what is named: the gateway's pages in Debian's headless Chromium, on the fleet that `make up` has
# booted.
# llama.cpp's chat page is built by npm for it, which takes minutes the first time; the result stays in the
# cache. That and the browser's 250 MB are why this is no part of `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

export HEARTCODE_FLEET_DIR=${HEARTCODE_FLEET_DIR:-$PWD/.fleet}
[[ -e $HEARTCODE_FLEET_DIR/fleet.json ]] || { echo "There is no virtual fleet; run: make up" >&2; exit 1; }

packages=()
command -v chromium-headless-shell >/dev/null || packages+=(chromium-headless-shell)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
if ((${#packages[@]})); then
    if ((EUID != 0)); then
        echo "These Debian packages are missing: ${packages[*]}. Run this as root, or install them." >&2
        exit 1
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${packages[@]}"
fi

(($#)) || set -- tests/pages
.venv/bin/pytest "$@"
