r"""HTTP's chunks, the frames in which a body of unknown length goes over a connection.

    >>> framed(b"data: 1\n\n")
    b'9\r\ndata: 1\n\n\r\n'

The format: RFC 9112, section 7.1.
"""

from __future__ import annotations

END = b"\r\n"
#: The end of a body, without trailers.
LAST = b"0\r\n\r\n"
# A token's event has 150 to 300 bytes.
_LONGEST = 1024


def framed(data: bytes) -> bytes:
    """Return `data`, which must not be empty, as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


#: What a chunk begins with, as `framed()` writes it, by the length of the whole chunk. Longer ones
#: are left out. With this, whether a piece is exactly one chunk is told without a parser.
HEADS = {
    len(framed(bytes(size))): framed(bytes(size))[: -size - len(END)]
    for size in range(1, _LONGEST + 1)
}
