"""What headers say about the order of pictures, on streams written bit by bit and on encoded ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from tests.exactness import moving_frames
from tests.videos import write_video

from kinema.data.bits import Bits, UnsureError
from kinema.data.bitstreams import Parser, parser, reorder_depth
from kinema.data.h264 import H264


class Written:
    """Bits, the highest first."""

    def __init__(self) -> None:
        self.bits = ""

    def u(self, num: int, value: int) -> Written:
        self.bits += f"{value:0{num}b}" if num else ""
        return self

    def ue(self, *values: int) -> Written:
        for value in values:
            code = f"{value + 1:b}"
            self.bits += "0" * (len(code) - 1) + code
        return self

    def se(self, *values: int) -> Written:
        return self.ue(*(2 * value - 1 if value > 0 else -2 * value for value in values))

    def unit(self, header: int) -> bytes:
        """A unit with its length in front; nothing that looks like a start code is in it."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        content = bytes([header]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
        escaped = bytearray()
        for byte in content:
            if escaped[-2:] == b"\x00\x00" and byte <= 3:
                escaped.append(3)
            escaped.append(byte)
        return len(escaped).to_bytes(4, "big") + bytes(escaped)


def sequence_set(*, order_kind: int = 0, frames_only: bool = True, number: int = 0) -> bytes:
    """Frame numbers and counts of 4 bits each."""
    written = Written().u(8, 77).u(16, 30).ue(number, 0, order_kind)
    if order_kind == 0:
        written.ue(0)
    elif order_kind == 1:
        written.u(1, 1).se(0, 0).ue(0)
    return written.ue(4).u(1, 0).ue(5, 3).u(1, int(frames_only)).u(3, 0).unit(0x67)


def picture_set(*, number: int = 0, weighted: bool = False, bottom: bool = False) -> bytes:
    written = Written().ue(number, 0).u(1, 1).u(1, int(bottom)).ue(0, 1, 0).u(1, int(weighted)).u(2, 0)
    return written.se(0, 0, 0).u(3, 0).unit(0x68)


SETS = sequence_set() + picture_set()
P, B, I = 0, 1, 2  # noqa: E741 - as the standard calls them


def a_slice(
    kind: int,
    frame_number: int,
    count: int,
    *,
    idr: bool = False,
    reference: bool = True,
    marking: tuple[int, ...] = (),
) -> bytes:
    """A picture of one slice: frame number and count modulo 16."""
    written = Written().ue(0, kind, 0).u(4, frame_number % 16)
    if idr:
        written.ue(0)
    written.u(4, count % 16)
    if kind == B:
        written.u(1, 1)
    if kind in (P, B):
        written.u(1, 0).u(2 if kind == B else 1, 0)
    if idr:
        written.u(2, 0)
    elif reference:
        written.u(1, int(bool(marking))).ue(*marking)
    return written.u(40, (1 << 40) - 1).unit((5 if idr else 1) | (0x60 if reference else 0))


def shown(packets: list[bytes]) -> Parser:
    found = H264(b"")
    found._length = 4
    for packet in packets:
        found.add(packet)
    return found


IDR = SETS + a_slice(I, 0, 0, idr=True)


def test_numbers_are_read_as_they_are_written() -> None:
    written = Written().ue(0, 1, 2, 7, 254, 255).se(0, 1, -1, 2, -2, 90).u(5, 21).ue(65535)
    bits = Bits(written.unit(0)[5:])
    assert [bits.ue() for _ in range(6)] == [0, 1, 2, 7, 254, 255]
    assert [bits.se() for _ in range(6)] == [0, 1, -1, 2, -2, 90]
    assert (bits.read(5), bits.ue()) == (21, 65535)
    assert bits.position == len(written.bits)
    with pytest.raises(UnsureError, match="cut short"):
        Bits(b"\x00\x00").ue()
    with pytest.raises(UnsureError, match="cut short"):
        Bits(b"\x80").read(9)


def test_counts_go_on_where_they_overflow() -> None:
    """Groups of P b b over 80 pictures, whose counts have 4 bits."""
    packets, places = [IDR], [0]
    for group in range(27):
        at = 6 * group
        packets += [
            a_slice(P, group + 1, at + 6),
            a_slice(B, group + 2, at + 2, reference=False),
            a_slice(B, group + 2, at + 4, reference=False),
        ]
        places += [3 * group + 3, 3 * group + 1, 3 * group + 2]
    stream = shown(packets)
    assert stream.ranks().tolist() == places
    assert stream.keys().tolist() == [True] + [False] * 81
    assert stream.droppable().tolist() == [False, *[False, True, True] * 27]
    assert reorder_depth(stream.ranks()) == 1


def test_counts_begin_anew_at_instant_refreshes() -> None:
    packets = [IDR, a_slice(P, 1, 8), a_slice(B, 2, 4, reference=False), IDR, a_slice(P, 1, 4), a_slice(B, 2, 2)]
    assert shown(packets).ranks().tolist() == [0, 2, 1, 3, 5, 4]


def test_counts_may_be_negative() -> None:
    packets = [IDR, a_slice(P, 1, -4), a_slice(B, 2, -2, reference=False), a_slice(P, 2, 4)]
    assert shown(packets).ranks().tolist() == [2, 0, 1, 3]


def test_order_of_decoding() -> None:
    sets = sequence_set(order_kind=2) + picture_set()
    idr = Written().ue(0, I, 0).u(4, 0).ue(0).u(2, 0).u(40, (1 << 40) - 1).unit(0x65)
    others = [Written().ue(0, P, 0).u(4, i).u(40, (1 << 40) - 1).unit(0x61) for i in (1, 2, 3)]
    assert shown([sets + idr, *others]).ranks().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("lost", [1, 4, 7])
def test_a_lost_reference_picture_is_noticed(lost: int) -> None:
    packets = [IDR, *(a_slice(P, i, 2 * i) for i in range(1, 30))]
    shown(packets)
    with pytest.raises(UnsureError, match="pictures are missing"):
        shown([*packets[:lost], *packets[lost + 1 :]])


@pytest.mark.parametrize("number", [15, 16, 17])
def test_an_order_that_restarts_without_a_key_frame_is_noticed(number: int) -> None:
    """Memory management control operation 5; elsewhere than at frame number 0 the next number would not fit."""
    before = [a_slice(P, i, 2 * i) for i in range(1, number)]
    after = [a_slice(P, i, 2 * i) for i in range(1, 5)]
    plain = [IDR, *before, a_slice(P, number, 2 * number, marking=(1, 0, 4, 2, 0)), a_slice(P, number + 1, 5)]
    shown(plain).ranks()
    restart = a_slice(P, number, 2 * number, marking=(1, 0, 3, 0, 0, 5, 0))
    if number % 16:
        with pytest.raises(UnsureError, match="pictures are missing"):
            shown([IDR, *before, restart, *after])
        return
    with pytest.raises(UnsureError, match="restarts"):
        shown([IDR, *before, restart, *after]).ranks()


def test_marking_is_found_behind_weights_and_reordered_references() -> None:
    sets = sequence_set() + picture_set(weighted=True)
    before = [a_slice(P, i, 2 * i) for i in range(1, 16)]
    for operation in (4, 5):
        written = Written().ue(0, P, 0).u(4, 0).u(4, 0)
        written.u(1, 1).ue(2)  # three references
        written.u(1, 1).ue(0, 5, 1, 2, 3)  # in another order
        written.ue(5, 5)  # weights
        for luma, chroma in ((True, True), (False, True), (True, False)):
            written.u(1, int(luma)).se(*(3, -70) * luma).u(1, int(chroma)).se(*(1, 2, -3, 90) * chroma)
        written.u(1, 1).ue(*((4, 2, 0) if operation == 4 else (5, 0)))
        packet = written.u(40, (1 << 40) - 1).unit(0x61)
        found = shown([sets + a_slice(I, 0, 0, idr=True), *before, packet])
        if operation == 4:
            assert found.ranks().tolist() == list(range(17))
        else:
            with pytest.raises(UnsureError, match="restarts"):
                found.ranks()


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        ([SETS + a_slice(I, 0, 0), a_slice(P, 1, 2)], "does not start with a key frame"),
        ([IDR + a_slice(P, 1, 2)], "several pictures"),
        ([IDR, a_slice(P, 1, 2), a_slice(P, 2, 2)], "same place"),
        ([IDR, sequence_set(order_kind=2) + a_slice(P, 1, 2)], "change on the way"),
        ([sequence_set(order_kind=1) + picture_set() + a_slice(I, 0, 0, idr=True)], "rare"),
        ([IDR, a_slice(P, 1, 2)[:-6] + bytes(6)], "hole"),
        ([IDR, a_slice(P, 1, 2)[:-1] + b"\x00"], "hole"),
    ],
)
def test_what_leaves_a_doubt(packets: list[bytes], reason: str) -> None:
    stream = shown(packets)
    with pytest.raises(UnsureError, match=reason):
        stream.ranks()


def test_pictures_of_one_field_leave_a_doubt() -> None:
    sets = sequence_set(frames_only=False) + picture_set()
    field = Written().ue(0, I, 0).u(4, 0).u(2, 2).ue(0).u(4, 0).u(40, (1 << 40) - 1).unit(0x65)
    with pytest.raises(UnsureError, match="one field"):
        shown([sets + field, field]).ranks()


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (a_slice(I, 0, 0, idr=True), "headers are missing"),
        (SETS, "without a picture"),
        (SETS + a_slice(I, 0, 0, idr=True)[:-2], "longer or shorter"),
        (SETS + a_slice(I, 0, 0, idr=True) + b"\x00\x00", "longer or shorter"),
        (SETS + a_slice(I, 3, 0, idr=True), "cannot be"),
    ],
)
def test_what_is_not_understood(packet: bytes, reason: str) -> None:
    with pytest.raises(UnsureError, match=reason):
        shown([packet])


def ranks_of(path: Path) -> tuple[list[int], list[int], Parser]:
    """The places of packets by their headers and by their timestamps."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = parser(stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b"")
        pts = []
        for packet in container.demux(stream):
            if packet.size:
                found.add(bytes(packet))
                pts.append(packet.pts or 0)
    return found.ranks().tolist(), np.argsort(np.argsort(pts)).tolist(), found


X265 = "log-level=none:pools=none:frame-threads=1:keyint=400:scenecut=0:bframes=6:b-adapt=0"


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "keyint=400:scenecut=0:bframes=7:b-adapt=0:b-pyramid=normal:weightp=2:ref=6"}),
        ("libx264", {"x264-params": "keyint=400:interlaced=1:bframes=3:b-adapt=0"}),
        ("libx264", {"x264-params": "keyint=400:cqm=jvt:bframes=2:slices=3", "profile": "high"}),
        ("libx265", {"x265-params": f"{X265}:log2-max-poc-lsb=4"}),
        ("libx265", {"x265-params": f"{X265}:log2-max-poc-lsb=4:temporal-layers=3"}),
        ("libx265", {"x265-params": f"{X265}:log2-max-poc-lsb=5:keyint=30:open-gop=1"}),
    ],
)
def test_encoded_streams_without_key_frames(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    frames = moving_frames(300, 64, 64)
    found, expected, stream = ranks_of(write_video(tmp_path / "a.mkv", frames, fps=25, codec=codec, options=options))
    assert found == expected
    assert stream.max_reorder is None or reorder_depth(stream.ranks()) <= stream.max_reorder
