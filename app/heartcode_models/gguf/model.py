"""What the planner needs to know of a model: its shape and where its bytes will lie."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Model:
    """A transformer that keeps K and V of each token, dense or of experts, as one GGUF file.

    Attributes:
        name: For people.
        quantisation: As in file names, ``Q4_K_M``; ``?`` where the file does not say.
        n_layers: Repeating layers; llama.cpp counts the output as one more to offload.
        n_embd: Width of the residual stream.
        n_ff: Width of the widest feed-forward layer that every token takes; 0 if there is none.
        n_heads: Query heads of the layer that has most.
        head_k: Width of one key head, of a layer that sees the whole context.
        head_v: Width of one value head there.
        kv_heads: Key/value heads of each layer; fewer than query heads with GQA, 0 where a layer
            has no attention or looks at another's K and V.
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
        expert_bytes: Weights of each layer's experts, part of `layer_bytes`.
        sliding_window: Tokens that some layers look back; 0 if all see the whole context.
        windowed: Whether each layer is one of those; empty if none is.
        window_head_k: Width of one key head there; 0 if it is as elsewhere.
        window_head_v: Width of one value head there.
        n_embd_per_layer: Width of each layer's own embeddings of a token; 0 if it has none.
        streams: Residual streams side by side (Gemma 3n's AltUp).
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
    expert_bytes: tuple[int, ...] = ()
    sliding_window: int = 0
    windowed: tuple[bool, ...] = ()
    window_head_k: int = 0
    window_head_v: int = 0
    n_embd_per_layer: int = 0
    streams: int = 1
    architecture: str = "llama"

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Model":
        """What `as_data` has given, perhaps on another host."""
        values: dict[str, Any] = {}
        for name in {field.name for field in fields(cls)} & data.keys():
            value = data[name]
            values[name] = tuple(value) if isinstance(value, list) else value
        experts = values.get("expert_bytes")
        if isinstance(experts, int):
            # A rig's program of before tells those of all layers together.
            layers = values["n_layers"] if experts else 0
            values["expert_bytes"] = (experts // max(layers, 1),) * layers
        return cls(**values)

    def as_data(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)

    @property
    def all_layers(self) -> int:
        """What N_GPU_LAYERS has to be for the whole model: the layers and the output."""
        return self.n_layers + 1

    def has_window(self, layer: int) -> bool:
        """Whether a layer looks back over `sliding_window` tokens only."""
        return bool(self.windowed) and self.windowed[layer]

    def kv_width(self, layer: int) -> tuple[int, int]:
        """Values of K and of V that one token has in a layer."""
        heads = self.kv_heads[layer]
        if self.has_window(layer) and self.window_head_k:
            return heads * self.window_head_k, heads * (self.window_head_v or self.head_v)
        return heads * self.head_k, heads * self.head_v

    def experts_of(self, layers: range, *, used: bool = False) -> int:
        """Bytes of the experts in `layers`, all of them or those that one token is given."""
        size = sum(self.expert_bytes[layers.start : layers.stop])
        return size * self.experts_used // self.experts if used and self.experts else size

    def bytes_of(self, layers: range) -> int:
        """Bytes of the weights of `layers`; number `n_layers` stands for the output."""
        output = self.output_bytes if self.n_layers in layers else 0
        return sum(self.layer_bytes[layers.start : layers.stop]) + output

    def read_per_token(self, layers: range | None = None) -> int:
        """Bytes of `layers`, or of all and the output, that one token of an answer needs.

        Of a mixture of experts a token reads those that it has been given.
        """
        where = range(self.all_layers) if layers is None else layers
        return self.bytes_of(where) - self.experts_of(where) + self.experts_of(where, used=True)
