#!/usr/bin/env bash
# Prints the directory of a Debian root with the programs that read what the roles render: nginx with njs, nft,
# Prometheus. It is made once; nothing has to be installed on this machine. checking_root.sh [SUITE], by default of the
# reference OS, Debian 13.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${HEARTCODE_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heartcode}/lint
suite=${1:-trixie}
packages=(nginx libnginx-mod-http-js nftables prometheus prometheus-alertmanager)
root=$cache/$suite-$({ cat "$0" && ls systemd/libexec; } | sha256sum | cut -c1-12)

mkdir -p "$cache"
# Whoever comes meanwhile waits, and finds it made.
exec 9>"$cache/.lock"
flock 9
if ! [[ -d $root ]]; then
    echo "Making the root in which units and configurations are read ($suite with ${packages[*]})" >&2
    part=$(mktemp -d "$cache/.part-XXXXXX")
    trap 'rm -rf --one-file-system "$part"' EXIT
    cp -a "$(scripts/fleet.py image --suite "$suite")" "$part/root"
    cp /etc/resolv.conf "$part/root/etc/resolv.conf"
    # No service is started: there is no systemd in there.
    chroot "$part/root" sh -euc "apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends ${packages[*]}" >"$part/log" 2>&1 ||
        { cat "$part/log" >&2; exit 1; }
    # What the units start is installed by the roles; here it only has to exist.
    for program in systemd/libexec/* heartcode-model; do
        install -D -m 0755 /dev/null "$part/root/opt/heartcode/libexec/$(basename "$program")"
    done
    install -D -m 0755 /dev/null "$part/root/opt/heartcode/app/current/venv/bin/python"
    mv "$part/root" "$root"
    rm -r "$part"
fi
# Those of other versions of this script go when nothing has asked for them in a month.
touch "$root"
find "$cache" -mindepth 1 -maxdepth 1 ! -name .lock -mtime +30 -exec rm -rf --one-file-system {} +
echo "$root"
