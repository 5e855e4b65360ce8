#!/usr/bin/env bash
# Holds the units and the rendered configurations against the programs that will read them: systemd-analyze, nginx, nft
# and promtool run in a Debian root of their own. rendered.sh [SUITE], by default of the reference OS, Debian 13.
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=${1:-trixie}
declare -A releases=([trixie]=13 [bookworm]=12)
root=$(tools/checking_root.sh "$suite")
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
ANSIBLE_FILTER_PLUGINS=plugins/filter:roles/gateway/filter_plugins \
    .venv/bin/ansible-playbook -i inventory/example.yml tests/lint/render.yml -e "output=$output release=${releases[$suite]}" \
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
# As the roles llama_server and rpc_server have it.
[[ $suite != bookworm ]] || rm "$output"/systemd/heartcode-{llama,rpc}@.service.d/backoff.conf
cp roles/prometheus/files/heartcode.*.yml tests/lint/alerts.yml "$output"
install -D -m 0644 "$output/lent.conf" "$output/systemd/heartcode-rpc@0.service.d/lent.conf"
install -D -m 0644 "$output/limits.conf" "$output/systemd/heartcode-llama@0.service.d/limits.conf"

# A private mount namespace: whatever is mounted is gone when the command ends.
unshare --mount --propagation private tests/lint/in_root.sh "$root" "$output" "$suite"
