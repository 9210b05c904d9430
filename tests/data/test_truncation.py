"""Files that were cut short are told from whole ones, by what their container says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.videos import numbered_frames, write_video

from kinema.data.decoding import probe
from kinema.data.truncation import check_complete
from kinema.types import DataError

CONTAINERS = {
    "a.avi": {"codec": "mpeg4"},
    "a.mp4": {},
    "start.mp4": {"muxer_options": {"movflags": "faststart"}},
    "fragmented.mp4": {"muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mov": {},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx-vp9"},
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cut_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = write_video(tmp_path / name, numbered_frames(40), fps=10, **CONTAINERS[name])  # type: ignore[arg-type]
    check_complete(path)
    assert len(probe(path).times_s) == 40
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=rf"{name}: cut short, {int(share * len(whole)):,} of at least") as caught:
        probe(path)
    promised = int(str(caught.value).partition("at least ")[2].partition(" bytes")[0].replace(",", ""))
    assert int(share * len(whole)) < promised <= len(whole)


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_stands_behind_a_video_does_not_matter(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(5), fps=10, **CONTAINERS[name])  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes() + b"\xff notes of a camera \xff" * 9)
    check_complete(path)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_size_that_was_never_filled_in_says_nothing(tmp_path: Path, size: int) -> None:
    path = write_video(tmp_path / "a.avi", numbered_frames(40), fps=10, codec="mpeg4")
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + size.to_bytes(4, "little") + whole[8 : len(whole) // 2])
    check_complete(path)


def test_a_live_recording_has_no_length(tmp_path: Path) -> None:
    """Segment of unknown size: all bits are ones (RFC 8794)."""
    path = write_video(tmp_path / "a.mkv", numbered_frames(40), fps=10, muxer_options={"live": "1"})
    path.write_bytes(path.read_bytes()[:-500])
    check_complete(path)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\xff\xff\x00\x00AVI ", b"\x1a\x45\xdf\xa3", b"\x00" * 30])
def test_a_header_alone_is_no_reason_to_stumble(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(content)
    if content.endswith(b"AVI "):
        with pytest.raises(DataError, match="cut short, 12 of at least 65,544 bytes"):
            check_complete(path)
    else:
        check_complete(path)


def test_a_large_box_has_its_size_in_64_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    ftyp = (16).to_bytes(4, "big") + b"ftypisom" + bytes(4)
    for promised, there in ((100, 100), (100, 60)):
        mdat = (1).to_bytes(4, "big") + b"mdat" + promised.to_bytes(8, "big") + bytes(there - 16)
        path.write_bytes(ftyp + mdat)
        if promised == there:
            check_complete(path)
        else:
            with pytest.raises(DataError, match="76 of at least 116 bytes"):
                check_complete(path)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.wmv", "wmv2")])
def test_a_file_of_which_much_was_never_written(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(120), fps=10, codec=codec, options={"g": "10"})
    assert not probe(path).damaged
    content = path.read_bytes()

    def keep(share: float) -> None:
        kept = int(share * len(content))
        path.write_bytes(content[:kept] + bytes(len(content) - kept))

    keep(0.75)
    assert probe(path).damaged
    keep(0.12)
    with pytest.raises(DataError, match=r": (only .* of 12\.0 s decode; fetch|no frame of it decodes)"):
        probe(path)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_video_that_begins_late_is_whole(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(20), fps=10, times_s=[9 + i / 10 for i in range(20)])
    video = probe(path)
    assert (len(video.times_s), video.damaged) == (20, False)


def test_real_files_are_whole(data_root: Path) -> None:
    paths = [path for path in sorted(data_root.rglob("*")) if path.suffix in (".avi", ".mp4", ".mkv", ".webm", ".mpg")]
    assert len(paths) > 200
    for path in paths:
        check_complete(path)
