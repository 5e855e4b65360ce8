#!/usr/bin/env bash
# Runs a command with the real llama-server and the model that counts: with_llama_server.sh pytest tests/integration
# HEARTCODE_TEST_LLAMA_SERVER, if it is set, is the command of another llama-server.
set -euo pipefail
root=$(dirname "$0")/..

HEARTCODE_TEST_LLAMA_SERVER=${HEARTCODE_TEST_LLAMA_SERVER:-$("$root/tools/test_llama_server.sh")}
HEARTCODE_TEST_MODEL=$(mktemp --suffix=.gguf)
export HEARTCODE_TEST_LLAMA_SERVER HEARTCODE_TEST_MODEL
trap 'rm -f "$HEARTCODE_TEST_MODEL"' EXIT
python "$root/scripts/make_demo_model.py" "$HEARTCODE_TEST_MODEL"
"$@"
