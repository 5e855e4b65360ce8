"""The graph of a prompt, as llama.cpp builds it, for the size of the buffer that it is computed in.

Only sizes and the order of the computing count here. Where all layers are alike, a few stand for
all. Source: src/llama-graph.cpp, src/models/llama.cpp, gemma3n.cpp and gemma4.cpp beside it, and,
for what a device is handed,
``ggml_backend_sched_split_graph`` in ggml/src/ggml-backend.cpp of the pinned llama.cpp
(ggml-org/llama.cpp 0c1e57098).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from heartcode_models.gguf.model import Model
from heartcode_models.planner.graph_allocator import Tensor, buffer_size
from heartcode_models.planner.kv_of_layers import cells, window_cells
from heartcode_models.planner.settings import Settings

_F32, _F16, _I32, _I64 = 4, 2, 4, 8
#: So many layers and the last one, which has fewer rows, are as wide as all.
_LAYERS = 3
#: Width of Gemma 3n's shortcut beside attention (``laurel_rank``, src/llama-hparams.h).
_LAUREL = 64
#: Width of the rotation of V, and the smallest one of K (``build_input_v_rot`` and
#: ``build_input_k_rot``, src/llama-kv-cache.cpp).
_ROTATION = 64
#: Copies of what crosses from device to device where there are several: a batch is computed on the
#: first while the one before it is on the second (``GGML_SCHED_MAX_COPIES``, ggml/CMakeLists.txt).
PIPELINE_COPIES = 4


@dataclass(frozen=True, kw_only=True)
class Part:
    """What of the layers one device computes.

    Attributes:
        on_gpu: Whether it is a GPU. On the CPU flash attention needs no copy of K and V.
        last: Whether the output is computed here.
        copies: Of each input; `PIPELINE_COPIES` where there are several devices.
    """

    on_gpu: bool = True
    last: bool = True
    copies: int = 1


WHOLE = Part()


def part_copies(settings: Settings, *, several: bool) -> int:
    """Copies of each input: batches overlap on several devices.

    Not where tensors are kept from them by name (``pipeline_parallel`` in ``llama_context``,
    src/llama-context.cpp).
    """
    return PIPELINE_COPIES if several and not settings.n_cpu_moe else 1


@lru_cache(maxsize=4096)
def graph_buffer(
    model: Model, settings: Settings, *, flash_attention: bool = True, part: Part = WHOLE
) -> int:
    """Bytes of the buffer in which a device computes its part of the largest prompt.

    Args:
        model: The model.
        settings: Context, slots, types and the tokens that are computed together.
        flash_attention: Without it attention writes its scores out.
        part: What the device computes; all of it where there is one.
    """
    graph = _Graph(model, settings, part, flash_attention=flash_attention)
    return buffer_size(graph.nodes, graph.first)


def rotation_widths(model: Model, kv_type: str) -> tuple[int, int]:
    """Widths of the square matrices that rotate K and V, 0 where none does."""
    if kv_type == "f16":
        return 0, 0
    width = 0 if model.head_k % _ROTATION else _ROTATION
    while width and not model.head_k % (2 * width):
        width *= 2
    return width, 0 if model.head_v % _ROTATION else _ROTATION


class _Graph:
    """Builds the graph; `nodes` are in the order of the computing."""

    def __init__(
        self, model: Model, settings: Settings, part: Part, *, flash_attention: bool
    ) -> None:
        self.nodes: list[Tensor] = []
        self.first: list[Tensor] = []
        self._model = model
        self._part = part
        self._own: Tensor | None = None
        self._per_layer: Tensor | None = None
        self._flash = flash_attention
        # A batch is shared out evenly among the slots (``graph_reserve``, src/llama-context.cpp).
        self._slots = settings.slots
        self._tokens = -(-settings.computed_together // self._slots) * self._slots
        self._cells = settings.ctx_per_slot
        self._settings = settings
        self._kv_type = settings.kv_type
        self._layers()

    # --- tensors -------------------------------------------------------------------------------

    def _add(self, *layout: int, of: Sequence[Tensor], in_place: bool = False) -> Tensor:
        """What an operation makes of tensors, in f32."""
        size = prod(layout) * _F32
        return self._node(Tensor(layout=layout, size=size, sources=of, in_place=in_place))

    def _node(self, tensor: Tensor) -> Tensor:
        self.nodes.append(tensor)
        return tensor

    def _view(self, tensor: Tensor, *layout: int) -> Tensor:
        """Another shape of a tensor, in the same memory."""
        owner = tensor.view_of or tensor
        return self._node(Tensor(layout=layout, size=0, sources=(tensor,), view_of=owner))

    def _until_here(self, *tensors: Tensor) -> None:
        """Keep tensors to this point, as a fused kernel reads them (``add_alloc_dep``)."""
        if self._part.on_gpu:
            self._node(Tensor(layout=(), size=0, sources=tensors))

    def _input(self, *layout: int, width: int = _F32) -> Tensor:
        """What comes from the host or another device. The CPU's own inputs are placed first."""
        copies = [
            Tensor(layout=layout, size=prod(layout) * width, kept=self._part.copies > 1)
            for _ in range(self._part.copies)
        ]
        if self._part.copies > 1 or not self._part.on_gpu:
            self.first += copies
        else:
            self.nodes += copies
        return copies[0]

    # --- layers --------------------------------------------------------------------------------

    def _layers(self) -> None:
        model = self._model
        stream = self._inputs()
        rows = self._tokens
        # Layers that are not alike are all gone through.
        before_last = model.n_layers - 1 if model.window_head_k else _LAYERS
        for number in range(before_last + 1):
            if model.streams > 1:
                stream = self._layer_of_streams(stream)
                continue
            normed = self._norm(stream, rows)
            attended = self._attention(normed, number)
            if number == before_last and self._part.last:
                # Of the last layer only what makes logits is computed further.
                rows = min(self._slots, self._tokens)
                attended = self._add(model.n_embd, rows, of=(attended, self._wanted))
                stream = self._add(model.n_embd, rows, of=(stream, self._wanted))
            between = self._add(model.n_embd, rows, of=(attended, stream), in_place=True)
            normed = self._norm(between, rows)
            made = self._feed_forward(normed, rows)
            stream = self._add(model.n_embd, rows, of=(made, between), in_place=True)
            if self._own:
                stream = self._with_own_embeddings(stream, rows)
        if self._part.last and model.streams > 1:
            rows = min(self._slots, self._tokens)
            stream = self._add(model.n_embd, rows, of=(stream, self._wanted))
        if self._part.last:
            embedding = self._norm(stream, rows)
            logits = self._add(model.n_vocab, rows, of=(embedding,))
            embedding.kept = logits.kept = True

    def _inputs(self) -> Tensor:
        model, tokens = self._model, self._tokens
        if self._part.copies > 1:
            # What comes from another device; the first gets one stream of it, and makes the others.
            stream = self._input(model.n_embd, tokens, model.streams)
        elif self._part.on_gpu:
            stream = self._input(model.n_embd, tokens)
        else:
            # The CPU looks the embeddings up itself; those that an image would bring have a place.
            numbers = self._input(tokens, width=_I32)
            self._input(model.n_embd, tokens)
            stream = self._add(model.n_embd, tokens, of=(numbers,))
        self._positions = self._input(tokens, width=_I32)
        self._rotation_k, self._rotation_v = self._rotations()
        self._k_cells, self._v_cells, self._mask = self._places(self._cells)
        if model.sliding_window:
            # Its layers have a cache of their own (src/llama-kv-cache-iswa.cpp).
            self._rotations()
            self._places(window_cells(model, self._settings))
        if self._part.last:
            self._wanted = self._input(self._slots, width=_I32)
        self._embedded = stream
        self._own = self._looked_up()
        return self._streams(stream) if model.streams > 1 == self._part.copies else stream

    def _looked_up(self) -> Tensor | None:
        """The embeddings that each layer has of its own, for all (``build_inp_per_layer``)."""
        model, tokens = self._model, self._tokens
        layout = (model.n_embd_per_layer, model.n_layers, tokens)
        if not model.n_embd_per_layer:
            return None
        if self._part.on_gpu:
            return self._input(*layout)
        rows = self._add(prod(layout[:2]), tokens, of=(self._input(tokens, width=_I32),))
        return self._add(*layout, of=(self._view(rows, *layout),))

    def _own_embeddings(self) -> Tensor:
        """What each layer adds of them, made where the first layer does (``project_...``)."""
        if self._per_layer is None:
            model, tokens = self._model, self._tokens
            layout = (model.n_embd_per_layer, model.n_layers, tokens)
            assert self._own is not None  # noqa: S101 (asked for by models that have them)
            projected = self._add(prod(layout[:2]), tokens, of=(self._embedded,))
            normed = self._add(*layout, of=(self._view(projected, *layout),))
            total = self._add(*layout, of=(normed, self._own), in_place=True)
            turned = (model.n_embd_per_layer, tokens, model.n_layers)
            self._per_layer = self._add(*turned, of=(self._view(total, *turned),))
        return self._per_layer

    def _with_own_embeddings(self, stream: Tensor, rows: int) -> Tensor:
        model = self._model
        gate = self._add(model.n_embd_per_layer, rows, of=(stream,))
        own = self._view(self._own_embeddings(), model.n_embd_per_layer, rows)
        gated = self._add(model.n_embd_per_layer, rows, of=(gate, own), in_place=True)
        made = self._norm(self._add(model.n_embd, rows, of=(gated,)), rows)
        return self._add(model.n_embd, rows, of=(stream, made), in_place=True)

    # --- several residual streams (src/models/gemma3n.cpp) --------------------------------------

    def _streams(self, stream: Tensor) -> Tensor:
        """What the first layer gets: the stream, and what it is projected to."""
        n_embd, tokens, others = self._model.n_embd, self._tokens, self._model.streams - 1
        repeated = self._add(n_embd, tokens, others, of=(stream,))
        added = self._add(n_embd, tokens, others, of=(repeated,))
        size = self._add(1, tokens, of=(self._add(n_embd, tokens, of=(stream,)),))
        scaled = self._add(n_embd, tokens, others, of=(added, size))
        squares = self._add(n_embd, tokens, others, of=(added,), in_place=True)
        size = self._add(1, tokens, others, of=(squares,))
        scaled = self._add(n_embd, tokens, others, of=(scaled, size), in_place=True)
        return self._add(n_embd, tokens, others + 1, of=(stream, scaled))

    def _layer_of_streams(self, streams: Tensor) -> Tensor:
        """In the order in which the graph is walked: what an operand needs comes before it."""
        model, tokens = self._model, self._tokens
        n_embd, number = model.n_embd, model.streams
        turned = self._add(number, n_embd, tokens, of=(self._view(streams, number, n_embd),))
        routed = self._routed(self._view(streams, n_embd, tokens))
        coefficients = self._add(number * number, tokens, of=(routed,))
        coefficients = self._view(coefficients, number, number, tokens)
        product = self._add(number, n_embd, tokens, of=(turned, coefficients))
        back = self._add(n_embd, tokens, number, of=(self._view(product, n_embd, tokens, number),))
        predicted = self._add(n_embd, tokens, number, of=(back, streams), in_place=True)
        active = self._view(predicted, n_embd, tokens)
        normed = self._norm_of_view(active)
        attended = self._norm(self._attention(normed), tokens)
        attended = self._add(n_embd, tokens, of=(attended, active), in_place=True)
        low = self._add(_LAUREL, tokens, of=(normed,))
        laurel = self._norm(self._add(n_embd, tokens, of=(low,)), tokens)
        laurel = self._add(n_embd, tokens, of=(laurel, normed), in_place=True)
        between = self._add(n_embd, tokens, of=(attended, laurel), in_place=True)
        made = self._norm(self._sparse(self._norm_of_view(between), tokens), tokens)
        total = self._add(n_embd, tokens, of=(made, between), in_place=True)
        return self._corrected(predicted, total)

    def _corrected(self, predicted: Tensor, total: Tensor) -> Tensor:
        model, tokens = self._model, self._tokens
        n_embd, number = model.n_embd, model.streams
        active = self._view(predicted, n_embd, tokens)
        innovation = self._add(n_embd, tokens, of=(total, active), in_place=True)
        wide = self._add(n_embd, tokens, number, of=(innovation,))
        modalities = self._routed(total)
        turned = self._add(1, tokens, number, of=(self._view(modalities, tokens, number),))
        wide = self._add(n_embd, tokens, number, of=(wide, turned), in_place=True)
        corrected = self._add(n_embd, tokens, number, of=(wide, predicted), in_place=True)
        kept = self._view(corrected, n_embd, tokens)
        rest = self._view(corrected, n_embd, tokens, number - 1)
        first = self._add(n_embd, tokens, of=(self._view(corrected, n_embd, tokens),))
        gate = self._add(model.n_embd_per_layer, tokens, of=(first,))
        own = self._view(self._own_embeddings(), model.n_embd_per_layer, tokens)
        gated = self._add(model.n_embd_per_layer, tokens, of=(gate, own), in_place=True)
        made = self._norm(self._add(n_embd, tokens, of=(gated,)), tokens)
        rest = self._add(n_embd, tokens, number - 1, of=(rest, made))
        return self._add(n_embd, tokens, number, of=(kept, rest))

    def _routed(self, stream: Tensor) -> Tensor:
        normed = self._norm_of_view(stream)
        return self._add(self._model.streams, self._tokens, of=(normed,))

    def _norm_of_view(self, tensor: Tensor) -> Tensor:
        normed = self._add(self._model.n_embd, self._tokens, of=(tensor,))
        return self._add(self._model.n_embd, self._tokens, of=(normed,), in_place=True)

    def _sparse(self, normed: Tensor, rows: int) -> Tensor:
        """A feed-forward network whose gate is cut off (``gaussian_topk``)."""
        width = self._model.n_ff
        up = self._add(width, rows, of=(normed,))
        gate = self._add(width, rows, of=(normed,))
        mean = self._add(1, rows, of=(gate,))
        spread = self._add(1, rows, of=(self._add(width, rows, of=(gate, mean)),))
        cut = self._add(width, rows, of=(gate, spread), in_place=True)
        gated = self._add(width, rows, of=(up, cut), in_place=True)
        return self._add(self._model.n_embd, rows, of=(gated,))

    def _rotations(self) -> tuple[Tensor | None, Tensor | None]:
        """What rotates K and V for a quantised cache, which spreads outliers (``attn_rot_k``)."""
        k, v = rotation_widths(self._model, self._kv_type)
        return self._input(k, k) if k else None, self._input(v, v) if v else None

    def _places(self, cells: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where in a cache K and V are put, and which of its cells each token may see."""
        tokens = self._tokens
        # Without flash attention V lies transposed, and each value has its own place.
        v_places = 1 if self._flash else max(self._model.kv_heads) * self._model.head_v
        return (
            self._input(tokens, width=_I64),
            self._input(tokens * v_places, width=_I64),
            self._input(cells, tokens, width=_F16 if self._flash else _F32),
        )

    def _norm(self, tensor: Tensor, rows: int) -> Tensor:
        normed = self._add(self._model.n_embd, rows, of=(tensor,), in_place=True)
        return self._add(self._model.n_embd, rows, of=(normed,), in_place=True)

    def _attention(self, normed: Tensor, number: int = 0) -> Tensor:
        model, tokens = self._model, self._tokens
        heads, kv_heads = model.n_heads, max(model.kv_heads)
        head_k, head_v, has_own = model.head_k, model.head_v, True
        if model.window_head_k:
            has_own = model.kv_heads[number] > 0
            if model.has_window(number):
                head_k, head_v = model.window_head_k, model.window_head_v or head_v
        q = self._rotated(self._positioned(normed, heads, head_k), self._rotation_k)
        if has_own:
            v = self._add(kv_heads * head_v, tokens, of=(normed,))
            v = self._view(v, head_v, kv_heads, tokens)
            if model.window_head_k:
                v = self._add(head_v, kv_heads, tokens, of=(v,))  # normed
            v = self._rotated(v, self._rotation_v)
            k = self._rotated(self._positioned(normed, kv_heads, head_k), self._rotation_k)
            self._stored(k, self._k_cells)
            self._stored(v, self._v_cells)
        q = self._view(q, head_k, tokens, heads, 1)
        attended = self._flash_attention(q, head_v) if self._flash else self._scores(q)
        attended = self._rotated(attended, self._rotation_v)
        return self._add(model.n_embd, tokens, of=(attended,))

    def _positioned(self, normed: Tensor, heads: int, width: int) -> Tensor:
        """Q or K with its position; being made of a view it gets a place of its own."""
        tokens = self._tokens
        plain = self._add(heads * width, tokens, of=(normed,))
        shaped = self._view(plain, width, heads, tokens)
        return self._add(width, heads, tokens, of=(shaped, self._positions), in_place=True)

    def _rotated(self, tensor: Tensor, rotation: Tensor | None) -> Tensor:
        if rotation is None:
            return tensor
        width = rotation.layout[0]
        rows = prod(tensor.layout) // width
        shaped = self._view(tensor, width, rows)
        return self._view(self._add(width, rows, of=(rotation, shaped)), *tensor.layout)

    def _stored(self, tensor: Tensor, cells: Tensor) -> None:
        """Put K or V into the cache, which lies elsewhere."""
        shaped = self._view(tensor, prod(tensor.layout[:2]), self._tokens)
        self._node(Tensor(layout=shaped.layout, size=0, sources=(shaped, cells)))

    def _flash_attention(self, q: Tensor, head_v: int) -> Tensor:
        model = self._model
        layout = (head_v, model.n_heads, self._tokens)
        size = prod(layout) * _F32
        if self._part.on_gpu:
            size += f16_copy(model, self._settings)
        done = self._node(Tensor(layout=layout, size=size, sources=(q, self._mask)))
        return self._view(done, head_v * model.n_heads, self._tokens)

    def _scores(self, q: Tensor) -> Tensor:
        """Attention that writes every head's scores out (``build_attn_mha``)."""
        model, tokens = self._model, self._tokens
        scores = self._add(self._cells, tokens, model.n_heads, of=(q,))
        weights = self._add(*scores.layout, of=(scores, self._mask), in_place=True)
        mixed = self._add(model.head_v, tokens, model.n_heads, of=(weights,))
        shaped = self._view(mixed, model.head_v, model.n_heads, tokens, 1)
        return self._add(model.head_v * model.n_heads, tokens, of=(shaped,))

    # --- feed-forward --------------------------------------------------------------------------

    def _feed_forward(self, normed: Tensor, rows: int) -> Tensor:
        model = self._model
        if model.experts and model.n_ff:
            # Some layers have experts and some have none: the wider kind counts.
            dense = 3 * model.n_ff
            sparse = model.experts_used * (2 * model.n_embd + model.n_ff_expert)
            return self._dense(normed, rows) if dense > sparse else self._experts(normed, rows)
        return self._experts(normed, rows) if model.experts else self._dense(normed, rows)

    def _dense(self, normed: Tensor, rows: int) -> Tensor:
        width = self._model.n_ff
        gate = self._add(width, rows, of=(normed,))
        up = self._add(width, rows, of=(normed,))
        gated = self._add(width, rows, of=(gate, up))
        return self._add(self._model.n_embd, rows, of=(gated,))

    def _experts(self, normed: Tensor, rows: int) -> Tensor:
        """A mixture of experts (``build_moe_ffn``).

        CUDA's fused kernels keep what they read to their end (``ggml_backend_cuda_graph_optimize``,
        ggml/src/ggml-cuda/ggml-cuda.cu).
        """
        model = self._model
        used, width = model.experts_used, model.n_ff_expert
        begin = len(self.nodes)
        chosen, weights = self._chosen(normed, rows)
        kept = self.nodes[begin:]
        tokens = self._view(normed, model.n_embd, 1, rows)
        self._until_here(*kept)
        gate = self._add(width, used, rows, of=(tokens, chosen))
        up = self._add(width, used, rows, of=(tokens, chosen))
        gated = self._add(width, used, rows, of=(gate, up))
        made = self._add(model.n_embd, used, rows, of=(gated, chosen))
        weighted = self._add(model.n_embd, used, rows, of=(made, weights), in_place=True)
        views = [self._view(weighted, model.n_embd, rows, used) for _ in range(used)]
        total = views[0]
        for view in views[1:]:
            total = self._add(model.n_embd, rows, of=(total, view), in_place=True)
        self._until_here(made, weights)
        return self._with_shared(total, normed, rows)

    def _chosen(self, normed: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Which experts each token gets, and with which weights."""
        every, used = self._model.experts, self._model.experts_used
        logits = self._add(every, rows, of=(normed,))
        likely = self._add(every, rows, of=(logits,), in_place=True)
        shaped = self._view(likely, 1, every, rows)
        order = self._add(every, rows, of=(likely,))
        chosen = self._view(order, used, rows, every)
        picked = self._view(self._add(1, used, rows, of=(shaped, chosen)), used, rows)
        total = self._add(1, rows, of=(picked,))
        total = self._add(1, rows, of=(total,), in_place=True)
        weights = self._add(used, rows, of=(picked, total), in_place=True)
        return chosen, self._view(weights, 1, used, rows)

    def _with_shared(self, total: Tensor, normed: Tensor, rows: int) -> Tensor:
        """An expert that every token gets, where the model has one."""
        width, n_embd = self._model.n_ff_shared, self._model.n_embd
        if not width:
            return total
        gate = self._add(width, rows, of=(normed,))
        up = self._add(width, rows, of=(normed,))
        gated = self._add(width, rows, of=(gate, up))
        shared = self._add(n_embd, rows, of=(gated,))
        return self._add(n_embd, rows, of=(total, shared), in_place=True)


def f16_copy(model: Model, settings: Settings) -> int:
    """Bytes that a GPU's flash attention asks for to have one layer's K and V in f16.

    Its kernel for several tokens knows f16 only, so what it writes to is followed by room for a
    copy of another type (``ggml_cuda_flash_attn_ext_get_alloc_size``, ggml-cuda/fattn.cu).
    """
    if settings.kv_type == "f16":
        return 0
    values = max(
        sum(model.kv_width(layer)) * cells(model, settings, layer)
        for layer in range(model.n_layers)
    )
    return values * _F16 * settings.slots
