"""Reads what stands in a GGUF before the weights: metadata and the list of tensors.

Format: docs/gguf.md of ggml, versions 2 and 3. The vocabulary (100,000 strings and more) is stepped
over without being built, unless somebody wants it.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.ggml_types import BY_NAME, TYPES, row_bytes
from heartcode_models.gguf.source import Source, opened
from heartcode_models.units import MIB

#: What every GGUF begins with.
MAGIC = b"GGUF"
_VERSIONS = (2, 3)
#: The first piece that is read; each further one doubles what there is.
_FIRST_PIECE = MIB
#: ``general.alignment`` of a file that does not say: where its tensors begin.
_ALIGNMENT = 32
#: No vocabulary is this large; beyond it a file is taken to be broken.
_LARGEST_HEADER = 256 * MIB
_LONGEST_STRING = 16 * MIB
_MOST_TENSORS, _MOST_KEYS, _MOST_DIMENSIONS = 1 << 16, 1 << 16, 4
#: Arrays up to this length are kept: heads of each layer, not vocabularies.
_KEPT_ARRAY = 1024

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True, kw_only=True)
class SkippedArray:
    """An array of which only the length is known."""

    length: int


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor: its name in GGUF, its sizes (fastest first, as in the file) and its type."""

    name: str
    sizes: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        """Size in the file.

        Raises:
            ModelError: a row is no whole number of the type's blocks.
        """
        return row_bytes(BY_NAME[self.kind], self.sizes[0]) * prod(self.sizes[1:])


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a GGUF says of itself.

    Attributes:
        source: Path or URL.
        metadata: Values by key; long arrays as `SkippedArray`.
        tensors: In the file's order.
        file_bytes: Size of the file; where the server does not say, of what is in it.
    """

    source: str
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    file_bytes: int


def read_header(where: str, *, keep: Collection[str] = (), token: str = "") -> Header:
    """The header of a GGUF at a path or URL, with the long arrays of the keys in `keep`.

    A server may want a `token`.

    Raises:
        ModelError: it cannot be read or is no whole GGUF header.
    """
    with opened(where, token) as source:
        return _Reader(source, keep).header()


class _Reader:
    """Takes values one after the other from a buffer that grows when it runs out."""

    def __init__(self, source: Source, keep: Collection[str]) -> None:
        self._source = source
        self._keep = keep
        self._buffer = bytearray()
        self._at = 0
        self._tensors_end = 0

    def header(self) -> Header:
        self._check_magic()
        n_tensors, n_keys = self._unpack("Q"), self._unpack("Q")
        if n_tensors > _MOST_TENSORS or n_keys > _MOST_KEYS:
            raise self._broken(f"it claims {n_tensors} tensors and {n_keys} metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._string()
            metadata[key] = self._value(self._unpack("I"), keep=key in self._keep)
        tensors = tuple(self._tensor() for _ in range(n_tensors))
        return Header(
            source=self._source.name,
            metadata=metadata,
            tensors=tensors,
            file_bytes=self._file_bytes(metadata.get("general.alignment", _ALIGNMENT)),
        )

    def _file_bytes(self, alignment: Any) -> int:
        if not isinstance(alignment, int) or alignment < 1:
            raise self._broken(f"its alignment is {alignment!r}")
        least = self._at
        if self._tensors_end:
            least = -(-self._at // alignment) * alignment + self._tensors_end
        size = self._source.size
        if size is not None and size < least:
            raise self._broken(
                f"it has {size} bytes, its tensors need {least}: the download is incomplete"
            )
        return least if size is None else size

    def _check_magic(self) -> None:
        magic = bytes(self._take(4))
        if magic != MAGIC:
            raise self._broken(f"it begins with {magic!r} instead of {MAGIC!r}")
        version = self._unpack("I")
        if version not in _VERSIONS:
            raise self._broken(f"its version is {version}; known are {_VERSIONS}")

    def _tensor(self) -> Tensor:
        name = self._string()
        dimensions = self._unpack("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self._broken(f"tensor {name} has {dimensions} dimensions")
        sizes = tuple(self._unpack("Q") for _ in range(dimensions))
        number = self._unpack("I")
        offset = self._unpack("Q")
        kind = TYPES.get(number)
        if kind is None:
            raise self._broken(f"tensor {name} has the unknown type {number}")
        tensor = Tensor(name=name, sizes=sizes, kind=kind.name)
        try:
            self._tensors_end = max(self._tensors_end, offset + tensor.nbytes)
        except ModelError as error:
            raise self._broken(f"tensor {name}: {error}") from None
        return tensor

    def _value(self, kind: int, *, keep: bool = False) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(keep=keep)
        if kind not in _SCALARS:
            raise self._broken(f"a value has the unknown type {kind}")
        return self._unpack(_SCALARS[kind])

    def _array(self, *, keep: bool) -> Any:
        kind, length = self._unpack("I"), self._unpack("Q")
        if length > _LARGEST_HEADER:
            raise self._broken(f"an array claims {length} entries")
        if (keep or length <= _KEPT_ARRAY) and kind != _ARRAY:
            return [self._value(kind) for _ in range(length)]
        if kind == _STRING:
            for _ in range(length):
                self._skip(self._length_of_string())
        elif kind in _SCALARS:
            self._skip(length * struct.calcsize("<" + _SCALARS[kind]))
        else:
            raise self._broken(f"an array has entries of the unknown type {kind}")
        return SkippedArray(length=length)

    def _string(self) -> str:
        return bytes(self._take(self._length_of_string())).decode("utf-8", "replace")

    def _length_of_string(self) -> int:
        length: int = self._unpack("Q")
        if length > _LONGEST_STRING:
            raise self._broken(f"a string claims {length} bytes")
        return length

    def _unpack(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _take(self, count: int) -> memoryview:
        start = self._at
        self._skip(count)
        return memoryview(bytes(self._buffer[start : self._at]))

    def _skip(self, count: int) -> None:
        self._at += count
        while self._at > len(self._buffer):
            self._grow()

    def _grow(self) -> None:
        if self._at > _LARGEST_HEADER:
            raise self._broken(f"its header is longer than {_LARGEST_HEADER // MIB} MiB")
        wanted = max(self._at - len(self._buffer), len(self._buffer), _FIRST_PIECE)
        piece = self._source.read(wanted)
        if not piece:
            raise self._broken(f"it ends within its header, after {len(self._buffer)} bytes")
        self._buffer += piece

    def _broken(self, why: str) -> ModelError:
        return ModelError(f"{self._source.name} is no usable GGUF: {why}")
