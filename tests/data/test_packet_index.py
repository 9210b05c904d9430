"""The packet index by itself: what is written is read again, and where decoding starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kinema.data.packet_index import DecoderSettings, PacketIndex

SETTINGS = DecoderSettings(
    codec="h264",
    tag="avc1",
    extradata=bytes(range(256)),
    width_px=64,
    height_px=48,
    color=(2, 1, 1, 1),
    reorder_depth=2,
)


def made(num: int = 501) -> PacketIndex:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9000, num).astype(np.int32)
    frames = np.arange(num, dtype=np.int32)
    frames[1::3], frames[2::3] = np.arange(num, dtype=np.int32)[2::3], np.arange(num, dtype=np.int32)[1::3][: num // 3]
    return PacketIndex(
        settings=SETTINGS,
        sizes=sizes,
        positions=np.cumsum(sizes + rng.integers(0, 50, num), dtype=np.int64) + (1 << 33),
        frames=frames,
        starts=np.where(np.arange(num) % 60 == 0, frames, -1).astype(np.int32),
        droppable=rng.random(num) < 0.5,
        file_bytes=1 << 34,
        patches={0: [(45, 0)], 7: [(1, 2), (3, 255)]},
    )


def test_round_trip() -> None:
    index = made()
    data = index.to_bytes()
    assert len(data) < 6 * 501 + 600
    again = PacketIndex.from_bytes(data)
    for name in ("sizes", "positions", "frames", "starts", "droppable"):
        assert np.array_equal(getattr(again, name), getattr(index, name)), name
        assert getattr(again, name).dtype == getattr(index, name).dtype, name
    assert (again.settings, again.patches, again.file_bytes) == (index.settings, index.patches, index.file_bytes)
    assert again.load() is again


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"", lambda data: data[:4] + b"\xff" + data[5:]]
)
def test_damaged_or_of_another_version(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match="packet index"):
        PacketIndex.from_bytes(damage(made().to_bytes()))


def test_where_decoding_starts() -> None:
    """An open group: packet 3 is an intra picture that frames 1 and 2, decoded behind it, are displayed before."""
    index = PacketIndex(
        settings=SETTINGS,
        sizes=np.full(8, 10, dtype=np.int32),
        positions=np.arange(8, dtype=np.int64) * 10,
        frames=np.array([0, -1, 1, 4, 2, 3, 5, 6], dtype=np.int32),
        starts=np.array([0, -1, -1, 4, -1, -1, -1, -1], dtype=np.int32),
        droppable=np.zeros(8, dtype=np.bool_),
        file_bytes=80,
    )
    assert index.num_frames == 7
    assert index.packet_of.tolist() == [0, 2, 4, 5, 3, 6, 7]
    assert index.start_of.tolist() == [0, 0, 0, 0, 3, 3, 3]
