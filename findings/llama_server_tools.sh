#!/usr/bin/env bash
# llama-server (llama.cpp b11549, in PyPI's xllamacpp): `tools` vanish without a word where a model's template has none.
#
# Expected: what docs/function-calling.md says ("Function calling is supported for all models"; "Generic tool call is
# supported when the template isn't recognized by native format handlers"): a prompt that describes them, and with
# tool_choice "required" an answer that is a call. Or an error.
# Seen: the prompt is the one without tools, and with "required" the answer is plain text. Nothing in it tells a client
# that its tools were never shown to the model.
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
writer.add_chat_template(
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
)
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


asked = {"messages": [{"role": "user", "content": "aaa"}]}
tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]
without, with_tools = (ask("/apply-template", **asked, **more)["prompt"] for more in ({}, {"tools": tools}))
answer = ask("/v1/chat/completions", **asked, tools=tools, tool_choice="required", max_tokens=3)
choice = answer["choices"][0]
seen = (with_tools == without, choice["message"].get("tool_calls"), choice["message"]["content"])
print("expected: a prompt that names get_weather and an answer that calls it, or an error")
print("seen: the same prompt as without tools: {}; tool calls: {}; content: {!r}".format(*seen))
sys.exit(seen != (True, None, "aaa"))
END
