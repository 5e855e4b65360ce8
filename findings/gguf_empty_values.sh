#!/usr/bin/env bash
# gguf: GGUFWriter leaves out a key whose value is an empty text or an empty list, without a word.
#
# Expected: the key is there with its empty value, which the format has room for, as it has for 0 and false; a reader
# tells "empty" from "not said".
# Seen: add_string("", ...) and add_array([], ...) return before they write anything, while add_key_value() writes the
# same empty text. A file that is copied through the writer key by key may have fewer keys than it had.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0
"$here/venv/bin/pip" show gguf 2>/dev/null | sed -n "s/^Version: /gguf /p"

"$here/venv/bin/python" - "$here/metadata.gguf" <<'END'
import sys

from gguf import GGUFReader, GGUFValueType, GGUFWriter

path = sys.argv[1]
writer = GGUFWriter(path, "llama")
writer.add_string("test.text", "")
writer.add_array("test.list", [])
writer.add_uint32("test.number", 0)
writer.add_bool("test.flag", False)
writer.add_key_value("test.text_as_key_value", "", GGUFValueType.STRING)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

seen = sorted(name for name in GGUFReader(path).fields if name.startswith("test."))
print("expected: test.flag test.list test.number test.text test.text_as_key_value")
print("seen:", *seen)
sys.exit(seen != ["test.flag", "test.number", "test.text_as_key_value"])
END
