#!/usr/bin/env bash
# llama-server (llama.cpp b11549, in PyPI's xllamacpp): the usage of several choices is that of the first one.
#
# Expected: completion_tokens counts what was generated for all choices, and prompt_tokens what was read for all prompts,
# as OpenAI's API has it.
# Seen: with n = 2 it is the tokens of one choice, and of two prompts in one request it is those of the first. Who bills
# or limits by usage gets all choices but one for nothing.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 xllamacpp==2026.10.11549
"$here/venv/bin/pip" show xllamacpp 2>/dev/null | sed -n "s/^Version: /xllamacpp /p"

cat >"$here/model.py" <<'END'
"""Writes a model that says nothing but "a"."""
import sys

import numpy as np
from gguf import GGUFWriter, TokenType

WIDTH, LAST = 64, 259  # ids: 3 control tokens, 256 bytes, and "a" as the last one
writer = GGUFWriter(sys.argv[1], "llama")
writer.add_context_length(512)
writer.add_embedding_length(WIDTH)
writer.add_block_count(1)
writer.add_feed_forward_length(32)
writer.add_head_count(1)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_tokenizer_model("llama")
writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a"])
writer.add_token_scores([0.0] * (LAST + 1))
writer.add_token_types(
    [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, TokenType.NORMAL]
)
writer.add_add_space_prefix(False)
ones, square = np.ones(WIDTH, np.float32), np.zeros((WIDTH, WIDTH), np.float32)
output = np.zeros((LAST + 1, WIDTH), np.float32)
output[LAST] = 1
writer.add_tensor("token_embd.weight", np.ones((LAST + 1, WIDTH), np.float32))
for name in ("attn_norm", "ffn_norm"):
    writer.add_tensor(f"blk.0.{name}.weight", ones)
for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
    writer.add_tensor(f"blk.0.{name}.weight", square)
for name in ("ffn_gate", "ffn_up"):
    writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, WIDTH), np.float32))
writer.add_tensor("blk.0.ffn_down.weight", np.zeros((WIDTH, 32), np.float32))
writer.add_tensor("output_norm.weight", ones)
writer.add_tensor("output.weight", output)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
END
"$here/venv/bin/python" "$here/model.py" "$here/a.gguf"

"$here/venv/bin/python" - "$here/a.gguf" 2>"$here/log" <<'END' || { tail -n 3 "$here/log"; exit 1; }
import json
import sys
import urllib.request

import xllamacpp

model = sys.argv[1]
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = model, 0, 512, 2
params.cpuparams.n_threads, params.warmup = 1, False
server = xllamacpp.Server(params)


def ask(path, **fields):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, json.dumps(fields).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def told(**fields):
    answer = ask("/v1/completions", max_tokens=5, **fields)
    usage = answer["usage"]
    return "".join(choice["text"] for choice in answer["choices"]), usage["prompt_tokens"], usage["completion_tokens"]


seen = [told(prompt="aaa", n=2), told(prompt=["aaa", "aaaaaaaaa"])]
expected = [("a" * 10, 4, 10), ("a" * 10, 4 + 10, 10)]
print(f"expected: {expected[0]} for n = 2, {expected[1]} for two prompts (text, prompt's tokens, its own)")
print(f"seen: {seen[0]} and {seen[1]}")
sys.exit(seen != [("a" * 10, 4, 5), ("a" * 10, 4, 5)])
END
