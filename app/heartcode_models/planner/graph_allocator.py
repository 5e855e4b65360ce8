"""How large ggml makes the buffer for what a graph computes.

The buffer is as large as a rehearsal says: each tensor of the graph is placed once, in the order of
the computing, into the smallest hole that holds it, and its place is a hole again after its last
reader. What does not fit into any hole makes the buffer grow. Since holes are not always of the
right size, the size cannot be read off a sum; so this module rehearses as ggml does.

Source: ``ggml_gallocr_alloc_graph_impl`` and ``ggml_dyn_tallocr_alloc``, ggml/src/ggml-alloc.c of
the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: Every place begins at a multiple of this: ``ggml_backend_cuda_buffer_type_get_alignment``,
#: ggml/src/ggml-cuda/ggml-cuda.cu.
ALIGNMENT = 128


@dataclass(eq=False, kw_only=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        layout: Its dimensions, and strides where they are not plain. A result takes the place of
            an operand of the same layout only.
        size: Bytes that its backend asks for; 0 for what lies elsewhere (weights, the KV cache).
        sources: What it is computed from.
        view_of: The tensor whose memory it shows; None if it has its own.
        in_place: Whether its operation may overwrite an operand (``ggml_op_can_inplace``).
        kept: Whether its place stays taken to the end (``GGML_TENSOR_FLAG_OUTPUT``).
    """

    layout: tuple[int, ...]
    size: int
    sources: Sequence["Tensor"] = ()
    view_of: "Tensor | None" = None
    in_place: bool = False
    kept: bool = False


@dataclass(kw_only=True)
class _Use:
    """Who still needs a tensor, and where it lies."""

    readers: int = 0
    views: int = 0
    offset: int | None = None


@dataclass(kw_only=True)
class _Holes:
    """The free places of a buffer without an end, by offset; the last one is the open end."""

    holes: list[list[int]] = field(default_factory=lambda: [[0, 1 << 62]])
    highest: int = 0

    def take(self, size: int) -> int:
        """The offset of a place; the smallest hole that does, else the open end."""
        inner = [hole for hole in self.holes[:-1] if hole[1] >= size]
        # Of holes of the same size ggml takes the last.
        hole = min(reversed(inner), key=lambda hole: hole[1]) if inner else self.holes[-1]
        offset = hole[0]
        hole[0] += size
        hole[1] -= size
        if not hole[1]:
            self.holes.remove(hole)
        self.highest = max(self.highest, offset + size)
        return offset

    def give_back(self, offset: int, size: int) -> None:
        """Make a place a hole again, and one with those beside it."""
        self.holes = _merged([*self.holes, [offset, size]])


def _merged(holes: Iterable[list[int]]) -> list[list[int]]:
    merged: list[list[int]] = []
    for offset, size in sorted(holes):
        if merged and merged[-1][0] + merged[-1][1] == offset:
            merged[-1][1] += size
        else:
            merged.append([offset, size])
    return merged


def buffer_size(graph: Sequence[Tensor], first: Sequence[Tensor] = ()) -> int:
    """Bytes of the buffer in which `graph` is computed.

    Args:
        graph: In the order of the computing.
        first: Inputs that are placed before all else.
    """
    return _Rehearsal(graph).run(first)


class _Rehearsal:
    def __init__(self, graph: Sequence[Tensor]) -> None:
        self._graph = graph
        self._holes = _Holes()
        self._uses: dict[Tensor, _Use] = {}
        for tensor in graph:
            if tensor.view_of:
                self._use(tensor.view_of).views += 1
            for source in tensor.sources:
                self._use(source).readers += 1

    def run(self, first: Sequence[Tensor]) -> int:
        for tensor in first:
            self._place(tensor)
        for tensor in self._graph:
            self._place(tensor)
            for source in tensor.sources:
                self._read(source)
        return self._holes.highest

    def _use(self, tensor: Tensor) -> _Use:
        return self._uses.setdefault(tensor, _Use())

    def _place(self, tensor: Tensor) -> None:
        use = self._use(tensor)
        if use.offset is not None or tensor.view_of or not tensor.size:
            return
        use.offset = self._taken_over(tensor) if tensor.in_place else None
        if use.offset is None:
            use.offset = self._holes.take(_aligned(tensor.size))

    def _taken_over(self, tensor: Tensor) -> int | None:
        """The place of an operand that nobody else needs, and that `tensor` overwrites."""
        for source in tensor.sources:
            use = self._use(source)
            # Views have no place of their own, and are not taken over (``ggml_gallocr_is_own``).
            if use.offset is None or source.kept or source.layout != tensor.layout:
                continue
            if use.readers == 1 and not use.views:
                offset, use.offset = use.offset, None
                return offset
        return None

    def _read(self, source: Tensor) -> None:
        """Count one reader less, and free what nobody needs any more."""
        use = self._use(source)
        use.readers -= 1
        if use.readers or use.views:
            return
        owner = source
        if source.view_of:
            owner = source.view_of
            owned = self._use(owner)
            owned.views -= 1
            if owned.views or owned.readers:
                return
        self._free(owner)

    def _free(self, tensor: Tensor) -> None:
        use = self._use(tensor)
        if use.offset is not None and not tensor.kept:
            self._holes.give_back(use.offset, _aligned(tensor.size))
            use.offset = None


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
