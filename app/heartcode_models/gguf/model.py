"""What the planner needs to know of a model: its shape and where its bytes will lie."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Model:
    """A dense transformer with plain attention, as one quantised GGUF file.

    Attributes:
        name: For people.
        quantisation: As in file names, ``Q4_K_M``; ``?`` where the file does not say.
        n_layers: Repeating layers; llama.cpp counts the output as one more to offload.
        n_embd: Width of the residual stream.
        n_ff: Width of the widest feed-forward layer.
        n_heads: Query heads of the layer that has most.
        head_k: Width of one key head.
        head_v: Width of one value head.
        kv_heads: Key/value heads of each layer; fewer than query heads with GQA, 0 where a layer
            has no attention.
        n_vocab: Tokens in the vocabulary.
        n_ctx_train: The longest context that the model was made for.
        layer_bytes: Weights of each layer.
        embedding_bytes: Token embeddings: they stay in host RAM.
        output_bytes: Output matrix and norm; with tied embeddings a second copy of those.
        file_bytes: The whole file.
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

    @property
    def all_layers(self) -> int:
        """What N_GPU_LAYERS has to be for the whole model: the layers and the output."""
        return self.n_layers + 1
