"""What the planner needs to know of a model: its shape and where its bytes will lie."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Model:
    """A transformer with plain attention, dense or of experts, as one quantised GGUF file.

    Attributes:
        name: For people.
        quantisation: As in file names, ``Q4_K_M``; ``?`` where the file does not say.
        n_layers: Repeating layers; llama.cpp counts the output as one more to offload.
        n_embd: Width of the residual stream.
        n_ff: Width of the widest feed-forward layer that every token takes; 0 if there is none.
        n_heads: Query heads of the layer that has most.
        head_k: Width of one key head.
        head_v: Width of one value head.
        kv_heads: Key/value heads of each layer; fewer than query heads with GQA, 0 where a layer
            has no attention.
        n_vocab: Tokens in the vocabulary.
        n_ctx_train: The longest context that the model was made for.
        layer_bytes: Weights of each layer.
        embedding_bytes: What the first layer is looked up in (embeddings of tokens, positions and
            types, of each layer or of all): it stays in host RAM.
        output_bytes: Output matrix and norm; with tied embeddings a second copy of those.
        file_bytes: The whole file.
        output_copy_bytes: Of the output that copy of the embeddings; 0 with a matrix of its own.
        largest_matrix_bytes: Of one layer.
        converted: Elements of the largest matrix in a type that cards multiply in f32 only; 0 if
            all are quantised.
        experts: Experts of a layer; 0 for a dense model.
        experts_used: Of them for each token.
        n_ff_expert: Width of one expert.
        n_ff_shared: Width of what every token takes beside its experts.
        expert_bytes: Weights of all experts, part of `layer_bytes`.
        sliding_window: Tokens that some layers look back; 0 if all see the whole context.
        architecture: As llama.cpp names it.
    """

    name: str
    quantisation: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    head_k: int
    head_v: int
    kv_heads: tuple[int, ...]
    n_vocab: int
    n_ctx_train: int
    layer_bytes: tuple[int, ...]
    embedding_bytes: int
    output_bytes: int
    file_bytes: int
    output_copy_bytes: int = 0
    largest_matrix_bytes: int = 0
    converted: int = 0
    experts: int = 0
    experts_used: int = 0
    n_ff_expert: int = 0
    n_ff_shared: int = 0
    expert_bytes: int = 0
    sliding_window: int = 0
    architecture: str = "llama"

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Model":
        """What `as_data` has given, perhaps on another host."""
        values: dict[str, Any] = {}
        for name in {field.name for field in fields(cls)} & data.keys():
            value = data[name]
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def as_data(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)

    @property
    def all_layers(self) -> int:
        """What N_GPU_LAYERS has to be for the whole model: the layers and the output."""
        return self.n_layers + 1

    @property
    def read_per_token(self) -> int:
        """Bytes of the layers and the output that one token of an answer needs."""
        read = sum(self.layer_bytes) + self.output_bytes
        if not self.experts:
            return read
        return read - self.expert_bytes + self.expert_bytes * self.experts_used // self.experts
