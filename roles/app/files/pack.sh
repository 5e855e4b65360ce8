#!/bin/sh
# Packs the program's directory reproducibly and prints its version: the same files give the same name.
#   pack.sh APP_DIRECTORY CACHE_DIRECTORY
set -eu
umask 022

app=$1 cache=$2
mkdir -p "$cache"
part=$(mktemp "$cache/.pack-XXXXXX")
trap 'rm -f "$part"' EXIT

# The packages beside the program are the control node's.
# No times, owners or permissions beyond "executable or not": they differ from clone to clone.
tar --create --directory="$app" --exclude='./heartcode_*' --exclude=__pycache__ --exclude='.*_cache' --sort=name --mtime=@0 \
    --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX . | gzip --no-name >"$part"
number=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$app/heartcode/__init__.py")
version="${number:?no __version__ in $app/heartcode/__init__.py}-$(sha256sum "$part" | cut -c1-12)"
chmod 0644 "$part"
mv -f "$part" "$cache/$version.tar.gz"
echo "$version"
