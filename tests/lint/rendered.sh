#!/usr/bin/env bash
# Holds the units and the rendered configurations against the programs that will read them, in the
# versions of the reference OS: systemd-analyze, nginx, nft and promtool run in a Debian 13 root of their own,
# so nothing has to be installed on this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${HEARTCODE_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heartcode}/lint
suite=trixie
packages=(nginx libnginx-mod-http-js nftables prometheus prometheus-alertmanager)
root=$cache/$suite-$({ cat "$0" && ls systemd/libexec; } | sha256sum | cut -c1-12)

if ! [[ -d $root ]]; then
    echo "Making the root in which units and configurations are checked ($suite with ${packages[*]})"
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/.part-XXXXXX")
    trap 'rm -rf --one-file-system "$part"' EXIT
    cp -a "$(scripts/fleet.py image --suite "$suite")" "$part/root"
    cp /etc/resolv.conf "$part/root/etc/resolv.conf"
    # No service is started: there is no systemd in there.
    chroot "$part/root" sh -euc "apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends ${packages[*]}" >"$part/log" 2>&1 ||
        { cat "$part/log"; exit 1; }
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
find "$cache" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf --one-file-system {} +

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
ANSIBLE_FILTER_PLUGINS=plugins/filter:roles/gateway/filter_plugins \
    .venv/bin/ansible-playbook -i inventory/example.yml tests/lint/render.yml -e "output=$output" \
    -e '{"_gateway_njs_dir": "/mnt/{{ variant.name | default() }}"}' >"$output/log" ||
    { cat "$output/log"; exit 1; }
.venv/bin/python - "$output" <<'EOF'
import json, pathlib, sys

output = pathlib.Path(sys.argv[1])
for name, text in json.loads((output / "rendered.json").read_text()).items():
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text(text)
EOF
cp -r systemd "$output/systemd"
cp roles/prometheus/files/heartcode.*.yml tests/lint/alerts.yml "$output"
install -D -m 0644 "$output/limits.conf" "$output/systemd/heartcode-llama@0.service.d/limits.conf"

# A private mount namespace: whatever is mounted is gone when the command ends.
unshare --mount --propagation private tests/lint/in_root.sh "$root" "$output"
