"""Makes a `Model` of a GGUF's header."""

import re
from math import prod
from pathlib import Path
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.architectures import ARCHITECTURES, Architecture
from heartcode_models.gguf.check import refuse_part
from heartcode_models.gguf.header import Header, SkippedArray, Tensor
from heartcode_models.gguf.model import Model

#: Metadata whose presence means that a layer keeps other things than K and V of each token.
_NOT_PLAIN = {
    "ssm.state_size": "has recurrent layers",
    "wkv.head_size": "has recurrent layers",
    "attention.kv_lora_rank": "compresses its KV cache (MLA)",
}
#: What the first layer is looked up in stays in host RAM: ``LLM_TENSOR_LAYER_INPUT`` in
#: ``LLM_TENSOR_INFOS``, src/llama-arch.cpp. The first is every model's.
_INPUTS = (
    "token_embd",
    "position_embd",
    "token_types",
    "per_layer_token_embd",
    "masked_embd_centroids",
    "masked_embd_ordering",
)
#: They belong to no layer by name, and lie with the first (``LLM_TENSOR_LAYER_REPEATING``,
#: src/llama-arch.cpp).
_WITH_THE_FIRST_LAYER = ("per_layer_model_proj", "per_layer_proj_norm")
#: What ``--n-cpu-moe`` keeps with the CPU (``LLM_FFN_EXPS_REGEX``, common/common.h).
_EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(ch)?exps")
#: Types that are no quantisation: without fast f16 a card multiplies them in f32.
_PLAIN = ("F16", "BF16")

#: ``LLAMA_MAX_LAYERS`` in src/llama-hparams.h.
_MOST_LAYERS = 512
_BLOCK = re.compile(r"blk\.(\d+)\.")
#: ``llama_ftype`` in include/llama.h.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
}  # fmt: skip


def model_of(header: Header) -> Model:
    """The model that a GGUF's header describes.

    Raises:
        ModelError: the planner does not know its architecture, or it lacks what each of them has.
    """
    facts = _Metadata(header)
    architecture = facts.text("general.architecture")
    for key, means in _NOT_PLAIN.items():
        if header.metadata.get(f"{architecture}.{key}"):
            raise ModelError(
                f"{header.source} {means}; the planner knows transformers with plain attention"
                " only. Set n_ctx and slots by hand and watch `nvidia-smi`."
            )
    known = ARCHITECTURES.get(architecture)
    if known is None:
        raise ModelError(
            f"{header.source} is a {architecture}, whose memory the planner does not know; it knows"
            f" {', '.join(ARCHITECTURES)}. Set n_ctx and slots by hand and watch `nvidia-smi`."
        )
    n_layers = facts.number("block_count")
    if n_layers > _MOST_LAYERS:
        raise ModelError(
            f"{header.source} claims {n_layers} layers; llama.cpp loads {_MOST_LAYERS}"
        )
    n_embd = facts.number("embedding_length")
    heads = facts.per_layer("attention.head_count", n_layers)
    kv_heads = facts.per_layer("attention.head_count_kv", n_layers, heads)
    own_kv = facts.own_kv(known, n_layers)
    kv_heads = kv_heads[:own_kv] + (0,) * (n_layers - own_kv)
    window, windowed = facts.windows(known, n_layers)
    if not max(heads) or not max(kv_heads):
        raise ModelError(
            f"{header.source} has no attention; the planner cannot tell its context's size"
        )
    parts = _Weights(header, n_layers)
    experts = facts.optional("expert_count")
    used = facts.number("expert_used_count") if experts else 0
    head = n_embd // max(heads)
    return Model(
        name=str(header.metadata.get("general.name") or Path(header.source).stem),
        quantisation=FILE_TYPES.get(header.metadata.get("general.file_type", -1), "?"),
        n_layers=n_layers,
        n_embd=n_embd,
        n_ff=0 if parts.all_experts else max(facts.per_layer("feed_forward_length", n_layers)),
        n_heads=max(heads),
        head_k=facts.number("attention.key_length", head),
        head_v=facts.number("attention.value_length", head),
        kv_heads=kv_heads,
        n_vocab=_vocabulary(header),
        n_ctx_train=facts.number("context_length"),
        layer_bytes=tuple(parts.layers),
        embedding_bytes=parts.inputs,
        output_bytes=parts.output,
        file_bytes=header.file_bytes,
        output_copy_bytes=parts.output_copy,
        largest_matrix_bytes=parts.largest,
        converted=parts.converted,
        experts=experts,
        experts_used=used,
        n_ff_expert=parts.width("ffn_up_exps") or parts.width("ffn_gate_up_exps") // 2,
        n_ff_shared=parts.width("ffn_up_shexp"),
        expert_bytes=tuple(parts.experts) if experts else (),
        sliding_window=window,
        windowed=windowed,
        window_head_k=facts.optional("attention.key_length_swa"),
        window_head_v=facts.optional("attention.value_length_swa"),
        n_embd_per_layer=known.per_layer or facts.optional("embedding_length_per_layer_input"),
        streams=known.streams,
        architecture=architecture,
    )


class _Metadata:
    """Metadata with the checks that its readers would repeat."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._architecture = str(header.metadata.get("general.architecture", ""))

    def text(self, key: str) -> str:
        value = self._header.metadata.get(key)
        if not isinstance(value, str):
            raise self._lacks(key)
        return value

    def number(self, key: str, default: int | None = None) -> int:
        value = self._header.metadata.get(f"{self._architecture}.{key}", default)
        if not isinstance(value, int) or value < 1:
            raise self._lacks(f"{self._architecture}.{key}")
        return value

    def optional(self, key: str) -> int:
        """A number that models may lack: 0."""
        return self.number(key) if self._header.metadata.get(f"{self._architecture}.{key}") else 0

    def per_layer(
        self, key: str, layers: int, default: tuple[int, ...] | None = None
    ) -> tuple[int, ...]:
        """A number for each layer, which files write as one number where all are equal."""
        value: Any = self._header.metadata.get(f"{self._architecture}.{key}", default)
        values = (value,) * layers if isinstance(value, int) else value
        if (
            isinstance(values, (list, tuple))
            and len(values) == layers
            and all(isinstance(number, int) and number >= 0 for number in values)
        ):
            return tuple(values)
        raise self._lacks(f"{self._architecture}.{key}")

    def own_kv(self, known: Architecture, layers: int) -> int:
        """How many layers, from the first on, have K and V of their own."""
        shared = self.optional("attention.shared_kv_layers")
        own = layers - shared if known.own_kv is None else min(known.own_kv, layers)
        if own < 1:
            raise self._lacks(f"{self._architecture}.attention.shared_kv_layers")
        return own

    def windows(self, known: Architecture, layers: int) -> tuple[int, tuple[bool, ...]]:
        """The window, and which layers have it (``load_swa_pattern``, src/llama-model.cpp)."""
        window = self.optional("attention.sliding_window") or known.window
        if not window or not known.window_every:
            return 0, ()
        key = f"{self._architecture}.attention.sliding_window_pattern"
        pattern: Any = self._header.metadata.get(key, known.window_every)
        if isinstance(pattern, list):
            if len(pattern) != layers:
                raise self._lacks(key)
            return window, tuple(map(bool, pattern))
        if not isinstance(pattern, int) or pattern < 0:
            raise self._lacks(key)
        # Of 0 layers none sees the whole context (``set_swa_pattern``, src/llama-hparams.cpp).
        return window, tuple(
            not pattern or layer % pattern < pattern - 1 for layer in range(layers)
        )

    def _lacks(self, key: str) -> ModelError:
        return ModelError(
            f"{self._header.source} has no usable metadata {key}; it is no whole model"
        )


def _vocabulary(header: Header) -> int:
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.sizes[-1]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return tokens.length if isinstance(tokens, SkippedArray) else 0


class _Weights:
    """Where the bytes of a file's tensors will lie.

    Attributes:
        layers: Bytes of each layer.
        inputs: Bytes of what stays in host RAM.
        output: Bytes of the output; with tied embeddings of their copy, `output_copy`.
        experts: Bytes of each layer's experts, part of `layers`.
        largest: Bytes of the largest matrix of a layer.
        converted: Elements of the largest matrix that is not quantised.
        all_experts: Whether every layer is one of experts.
    """

    def __init__(self, header: Header, n_layers: int) -> None:
        self.layers = [0] * n_layers
        self.experts = [0] * n_layers
        self.inputs = self.largest = self.converted = 0
        self._widths: dict[str, int] = {}
        of_experts: set[int] = set()
        output = other = 0
        tokens: Tensor | None = None
        for tensor in header.tensors:
            name = tensor.name.removesuffix(".weight")
            block = _BLOCK.match(name)
            if block and int(block[1]) < n_layers:
                self._in_layer(tensor, int(block[1]), name.removeprefix(block[0]))
                if self.experts[int(block[1])]:
                    of_experts.add(int(block[1]))
            elif name in _INPUTS:
                self.inputs += tensor.nbytes
                tokens = tensor if name == _INPUTS[0] else tokens
            elif name in _WITH_THE_FIRST_LAYER:
                self._in_layer(tensor, 0, name)
            elif name == "output":
                output = tensor.nbytes
                self._multiplied(tensor)
            else:
                other += tensor.nbytes  # output norm, rope factors: small, and with the output
        refuse_part(header)
        if tokens is None or not all(self.layers):
            raise ModelError(f"{header.source} lacks layers or embeddings; it is no whole model")
        self.output_copy = 0 if output else tokens.nbytes
        if self.output_copy:
            self._multiplied(tokens)
        self.output = output + self.output_copy + other
        self.all_experts = len(of_experts) == n_layers

    def _in_layer(self, tensor: Tensor, layer: int, name: str) -> None:
        self.layers[layer] += tensor.nbytes
        self.largest = max(self.largest, tensor.nbytes)
        if len(tensor.sizes) > 1:
            self._widths[name] = max(self._widths.get(name, 0), tensor.sizes[1])
            self._multiplied(tensor)
        if _EXPERTS.match(name):
            self.experts[layer] += tensor.nbytes

    def _multiplied(self, tensor: Tensor) -> None:
        if tensor.kind in _PLAIN:
            self.converted = max(self.converted, prod(tensor.sizes[:2]))

    def width(self, name: str) -> int:
        """The most rows that matrices of a name have in any layer; 0 if there are none."""
        return self._widths.get(name, 0)
