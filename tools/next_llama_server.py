#!/usr/bin/env python3
"""Runs the HTTP server of a newer llama.cpp, as PyPI has it, with llama-server's own options.

    next_llama_server.py -m MODEL --port PORT -c 65536 -np 2 ...

It needs the package xllamacpp, which is llama.cpp as a Python module and takes no command line:
those options that the tests give are understood, any other is an error.
`tools/next_llama_server.sh` installs it and prints the command.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import xllamacpp

_CACHE_TYPES = {
    "f16": xllamacpp.ggml_type.GGML_TYPE_F16,
    "q8_0": xllamacpp.ggml_type.GGML_TYPE_Q8_0,
    "q4_0": xllamacpp.ggml_type.GGML_TYPE_Q4_0,
}
_FLASH_ATTENTION = {
    "on": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "auto": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO,
}
_POOLING = {
    "none": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE,
    "mean": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN,
    "cls": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_CLS,
    "last": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST,
}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("-c", "--ctx-size", type=int, default=0)
    parser.add_argument("-np", "--parallel", type=int, default=1)
    parser.add_argument("-b", "--batch-size", type=int, default=2048)
    parser.add_argument("-ub", "--ubatch-size", type=int, default=512)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0)
    parser.add_argument("-fit", "--fit", choices=("on", "off"), default="on")
    parser.add_argument("-fa", "--flash-attn", choices=_FLASH_ATTENTION, default="auto")
    parser.add_argument("-ctk", "--cache-type-k", choices=_CACHE_TYPES, default="f16")
    parser.add_argument("-ctv", "--cache-type-v", choices=_CACHE_TYPES, default="f16")
    parser.add_argument("--cache-ram", type=int, default=8192)
    parser.add_argument("--sse-ping-interval", type=int, default=30)
    parser.add_argument("--alias", default="")
    parser.add_argument("--chat-template-file", type=Path)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--pooling", choices=_POOLING)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--no-slots", action="store_true")
    parser.add_argument("--no-ui", action="store_true")
    parser.add_argument("--jinja", action="store_true", default=True)
    return parser.parse_args()


def parameters(given: argparse.Namespace) -> xllamacpp.CommonParams:
    """Return what the options mean."""
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames, params.port = [given.host], given.port
    params.n_ctx, params.n_parallel = given.ctx_size, given.parallel
    params.n_batch, params.n_ubatch = given.batch_size, min(given.ubatch_size, given.batch_size)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.n_gpu_layers = given.gpu_layers
    params.fit_params = given.fit == "on"
    params.flash_attn_type = _FLASH_ATTENTION[given.flash_attn]
    params.cache_type_k = _CACHE_TYPES[given.cache_type_k]
    params.cache_type_v = _CACHE_TYPES[given.cache_type_v]
    params.cache_ram_mib = given.cache_ram
    params.sse_ping_interval = given.sse_ping_interval
    params.endpoint_metrics, params.endpoint_slots = given.metrics, not given.no_slots
    params.ui = not given.no_ui
    params.use_jinja = given.jinja
    params.embedding = given.embeddings
    if given.pooling:
        params.pooling_type = _POOLING[given.pooling]
    if given.alias:
        params.model_alias = {given.alias}
    if given.chat_template_file:
        params.chat_template = given.chat_template_file.read_text()
    return params


if __name__ == "__main__":
    # The server's threads end with the process, as its own do at a signal.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(parameters(options()))
    print(server.listening_address, flush=True)
    signal.pause()
