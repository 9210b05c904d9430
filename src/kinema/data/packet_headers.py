"""Headers that stand in packets outside pictures, in codecs of which everything else is learnt by decoding: a packet
that lacks them is no place to start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Tables stand in front of pictures.
_TABLES_BYTES = 4096


def outside_headers(codec: str, data: bytes) -> int:
    """Which headers a packet brings: bits."""
    if codec == "mpeg2video":  # the sequence header resets what pictures may have changed
        return b"\x00\x00\x01\xb3" in data[:_TABLES_BYTES]
    if codec == "mpeg4":
        return _has_layer(data[:_TABLES_BYTES])
    if codec == "mjpeg":  # quantisation tables, Huffman tables
        return (b"\xff\xdb" in data[:_TABLES_BYTES]) + 2 * (b"\xff\xc4" in data[:_TABLES_BYTES])
    return 0


def complete(codec: str, headers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each packet, whether it brings the headers that it needs, as far as they do not stand in the container."""
    if codec == "mpeg2video":
        return headers == 1
    if codec == "mpeg4" and headers[1:].any():  # else there is one at most, for all
        return headers == 1
    if codec == "mjpeg":  # with Huffman tables always, or always with the standard ones
        return (headers & 1 == 1) & (headers & 2 == (headers & 2).max())
    return np.ones(len(headers), dtype=np.bool_)


def _has_layer(content: bytes) -> bool:
    start = content.find(b"\x00\x00\x01")
    while 0 <= start < len(content) - 3:
        code = content[start + 3]
        if 0x20 <= code <= 0x2F:
            return True
        if code == 0xB6:  # a picture: no headers behind it
            return False
        start = content.find(b"\x00\x00\x01", start + 3)
    return False
