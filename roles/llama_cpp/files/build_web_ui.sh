#!/usr/bin/env bash
# Builds llama.cpp's web page from the pinned source, on the control node.
#
#   build_web_ui.sh check                    says what is missing, exit status 1; nothing if all is there
#   build_web_ui.sh ARCHIVE SUBDIR OUTPUT    builds from SUBDIR/tools/ui in ARCHIVE
#
# npm installs what the source's package-lock.json pins and nothing else, and no package's own scripts run.
# OUTPUT, a tar.gz, appears when it is complete, its .sha256 after it. It holds site/ (with what compresses
# also as .gz) and script_hashes.conf: nginx's variable with the hashes of the page's inline scripts, for its
# Content-Security-Policy.
set -euo pipefail
umask 022

# vite 7, which the source's package-lock.json pins, wants this one.
check() {
    local version
    if ! version=$(node --version 2>/dev/null) || ! npm --version >/dev/null 2>&1; then
        echo "The chat page is built on the control node with Node.js 20.19 or later and npm, which are missing" \
            "there. Install them (Debian 13: apt-get install nodejs npm) or set gateway_chat_ui to false." >&2
        return 1
    fi
    if ! node -e 'const [a, b] = process.versions.node.split(".").map(Number);
                  process.exit(a > 22 || a === 22 && b >= 12 || a === 20 && b >= 19 ? 0 : 1)'; then
        echo "The chat page needs Node.js 20.19 or later of the 20s, or 22.12 or later, to be built; the control" \
            "node has $version. Install a newer one (Debian 13 has it) or set gateway_chat_ui to false." >&2
        return 1
    fi
}

check
[[ $1 != check ]] || exit 0

archive=$1 subdir=$2 output=$3
work=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

tar --extract --file="$archive" --directory="$work" --strip-components="$(awk -F/ '{print NF}' <<<"$subdir")" \
    "$subdir/tools/ui" || { echo "The source has no tools/ui: set llama_cpp_source to one that has it." >&2; exit 1; }
cd "$work/tools/ui"
export NPM_CONFIG_UPDATE_NOTIFIER=false CI=true
if ! { npm ci --ignore-scripts --no-audit --no-fund && npm run build; } >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    exit 1
fi

mkdir "$work/web-ui"
mv dist "$work/web-ui/site"
cd "$work/web-ui"
[[ -s site/index.html ]] || { echo "npm built no index.html." >&2; exit 1; }
node >script_hashes.conf <<'END'
const {createHash} = require('crypto');
const html = require('fs').readFileSync('site/index.html', 'utf8');
const hashes = [...html.matchAll(/<script>([\s\S]*?)<\/script>/g)].map(
    ([, script]) => `'sha256-${createHash('sha256').update(script).digest('base64')}'`);
console.log(`set $heartcode_script_hashes "${hashes.join(' ')}";`);
END
find site -type f -regex '.*\.\(html\|js\|css\|svg\|json\|webmanifest\)' -size +1k \
    -exec gzip --best --keep --no-name {} +
tar --create --gzip --file="$work/package" --owner=0 --group=0 --sort=name --directory="$work" web-ui
mv "$work/package" "$output"
sha256sum "$output" | cut -d' ' -f1 >"$output.sha256"
