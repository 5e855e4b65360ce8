#!/usr/bin/env bash
# The part of rendered.sh that runs in a mount namespace of its own: in_root.sh ROOT RENDERED
set -euo pipefail
root=$1 output=$2

mount --bind "$output" "$root/mnt"
mount -t tmpfs tmpfs "$root/run"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
in_root() { chroot "$root" "$@"; }

for unit in "$root"/mnt/systemd/heartcode*; do
    install -m 0644 "$unit" "$root/run/"
done
mkdir -p "$root/run/systemd/system"
mv "$root"/run/heartcode* "$root/run/systemd/system/"
for unit in "$root"/run/systemd/system/heartcode*; do
    name=$(basename "$unit")
    echo "systemd-analyze verify $name"
    said=$(in_root systemd-analyze verify --man=no "${name/@./@0.}" 2>&1) || { echo "$said"; exit 1; }
    # It warns with status 0; a warning about a file of ours is a failure.
    if grep -F heartcode <<<"$said"; then exit 1; fi
done

echo "nginx -t heartcode.conf"
echo "include /etc/nginx/modules-enabled/*.conf; events {} http { include /mnt/heartcode.conf; }" >"$output/nginx.conf"
in_root nginx -t -q -c /mnt/nginx.conf

echo "promtool check config prometheus.yml"
in_root promtool check config --syntax-only /mnt/prometheus.yml
