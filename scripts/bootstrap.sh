#!/usr/bin/env bash
# Installs what the project needs on a fresh Debian machine: packages with apt (only those that are
# missing) and the pinned Python packages into .venv. `make` calls it; running it again costs a second.
set -euo pipefail
cd "$(dirname "$0")/.."

# Programs and the Debian packages that hold them. systemd-nspawn and mmdebstrap make the virtual
# fleet's hosts, nft and ip its network; the rest checks the code.
packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need systemd-nspawn systemd-container
need mmdebstrap mmdebstrap
need nft nftables
need ip iproute2
need ssh openssh-client
need ssh-keygen openssh-client
need curl curl
need git git
need shellcheck shellcheck
# njs's interpreter runs the gateway's routing in its unit tests.
need njs njs
# The simulated NVML is C.
need gcc gcc
need make make
[[ -e /usr/include/stdlib.h ]] || packages+=(libc6-dev)
[[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || packages+=(debian-archive-keyring)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

if ((${#packages[@]})); then
    if ((EUID != 0)); then
        echo "These Debian packages are missing: ${packages[*]}. Run this as root, or install them." >&2
        exit 1
    fi
    echo "Installing with apt: ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -yq --no-install-recommends "${packages[@]}"
fi

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "python3 is $(python3 --version); 3.11 or newer is needed (Debian 12 and later have it)." >&2
    exit 1
fi

# The stamp holds the hash of what was installed, so that changed pins are seen.
wanted=$(sha256sum requirements-dev.txt | cut -d' ' -f1)
stamp=.venv/.installed
if [[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
    echo "Installing the pinned Python packages into .venv"
    # One that was interrupted may have half of pip.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear .venv
    # Python compiles what it imports; of Ansible's collections that is little.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
        --require-hashes --requirement requirements-dev.txt
    echo "$wanted" >"$stamp"
fi
