"""How many bytes ggml's tensor types take.

Source: ``type_traits`` in ggml/src/ggml.c and the block structs in ggml/src/ggml-common.h of the
pinned llama.cpp. A contract test compares the table with the ``gguf`` library's.
"""

from dataclasses import dataclass

from heartcode_models.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class GgmlType:
    """One tensor type: `block` elements take `size` bytes."""

    name: str
    block: int
    size: int


#: By the number that stands in a GGUF file.
TYPES = {
    number: GgmlType(name=name, block=block, size=size)
    for number, name, block, size in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 40),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
    )
}
BY_NAME = {entry.name: entry for entry in TYPES.values()}

#: The K and V types that the role llama_server offers. Both have to be equal for flash attention.
KV_TYPES = ("f16", "q8_0", "q4_0")


def row_bytes(kind: GgmlType, elements: int) -> int:
    """Bytes of a row of `elements` (``ggml_row_size`` in ggml.c).

    Raises:
        ModelError: the row is no whole number of blocks.
    """
    if elements % kind.block:
        raise ModelError(f"a row of {elements} cannot be {kind.name}: its blocks hold {kind.block}")
    return elements // kind.block * kind.size
