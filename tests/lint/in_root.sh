#!/usr/bin/env bash
# The part of rendered.sh that runs in a mount namespace of its own: in_root.sh ROOT RENDERED SUITE
set -euo pipefail
root=$1 output=$2 suite=$3

mount --bind "$output" "$root/mnt"
mount -t tmpfs tmpfs "$root/run"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
in_root() { chroot "$root" "$@"; }

mkdir -p "$root/run/systemd/system"
cp -r "$root"/mnt/systemd/heartcode* "$root/run/systemd/system/"
chmod -R u=rwX,go=rX "$root/run/systemd/system"
units=() services=()
for unit in "$root"/run/systemd/system/heartcode*; do
    [[ -f $unit ]] || continue
    name=$(basename "$unit")
    units+=("${name/@./@0.}")
    [[ $name != *.service ]] || services+=("${name/@./@0.}")
done
echo "systemd-analyze verify ${units[*]}"
said=$(in_root systemd-analyze verify --man=no "${units[@]}" 2>&1) || { echo "$said"; exit 1; }
# It warns with status 0; a warning about a file of ours is a failure.
if grep -F heartcode <<<"$said"; then exit 1; fi
# systemd's own daemons reach 1.2 to 1.5, an ordinary service has above 9. What loads modules and makes device
# files, in two programs of the driver and nothing else, cannot be below 1.9. Releases of systemd count differently.
for service in "${services[@]}"; do
    [[ $suite == trixie ]] || break
    limit=15
    [[ $service != heartcode-gpu-devices.service ]] || limit=19
    in_root systemd-analyze security --offline=true --threshold=$limit --no-pager "$service" >"$output/said" ||
        { cat "$output/said"; exit 1; }
done

# As heartcode-self-signed makes it.
in_root openssl req -new -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -config /mnt/self_signed/request.cnf \
    -keyout /mnt/key.pem -out /mnt/certificate.pem 2>"$output/said" || { cat "$output/said"; exit 1; }
for site in heartcode.conf heartcode-models.conf heartcode-status.conf {open,keys,self_signed,acme}/heartcode.conf acme/heartcode-acme.conf; do
    echo "nginx -t $site"
    echo "include /etc/nginx/modules-enabled/*.conf; events {} http { include /mnt/$site; }" >"$output/nginx.conf"
    in_root nginx -t -q -c /mnt/nginx.conf
done

echo "nft -c firewall.nft"
in_root nft -c -f /mnt/firewall.nft

echo "promtool check config prometheus.yml"
in_root promtool check config --syntax-only /mnt/prometheus.yml

echo "promtool test rules alerts.yml"
in_root promtool check rules /mnt/heartcode.rules.yml /mnt/heartcode.recording.yml >"$output/said" || { cat "$output/said"; exit 1; }
in_root promtool test rules /mnt/alerts.yml >"$output/said" || { cat "$output/said"; exit 1; }

echo "amtool check-config alertmanager.yml"
in_root amtool check-config /mnt/alertmanager.yml >"$output/said" || { cat "$output/said"; exit 1; }
