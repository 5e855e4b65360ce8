#!/usr/bin/env bash
# llama-server (llama.cpp b11549, in PyPI's xllamacpp): max_tokens and n_predict of 0 generate a token.
#
# Expected: none, as its README says ("When 0, no tokens will be generated but the prompt is evaluated into the cache"),
# so that a prompt can be read beforehand and an answer of 0 tokens costs and shows nothing.
# Seen: one token is generated, counted and part of the text; the answer has ended because of its limit. A limit of 1
# gives the same.
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


answers = [ask("/completion", prompt="aaa", n_predict=limit) for limit in (0, 1)]
seen = [(answer["content"], answer["tokens_predicted"], answer["stop_type"]) for answer in answers]
usage = ask("/v1/completions", prompt="aaa", max_tokens=0)["usage"]["completion_tokens"]
print("expected: ('', 0, 'limit') for n_predict 0, ('a', 1, 'limit') for 1; 0 tokens for max_tokens 0")
print(f"seen: {seen[0]} for n_predict 0, {seen[1]} for 1; {usage} for max_tokens 0")
sys.exit(seen != [("a", 1, "limit")] * 2 or usage != 1)
END
