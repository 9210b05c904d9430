"""What fails on a machine is no fact about a file: it is tried again, and nothing keeps it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.videos import numbered_frames, write_video

from kinema.data import checking, frame_table, indexing, truncation
from kinema.data.checking import check_videos
from kinema.data.decoding import Video
from kinema.data.machine import MachineError, Passing, data_error, is_machines, reason_of
from kinema.data.probing import probe_all
from kinema.types import DataError


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", numbered_frames(8), fps=25)


@pytest.fixture
def avi(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.avi", numbered_frames(8), fps=25, codec="mpeg4")


def broken(number: int) -> OSError:
    return OSError(number, "something failed")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
def test_errors_of_machines(number: int) -> None:
    assert is_machines(broken(number))
    assert isinstance(data_error("a.mp4: no", broken(number)), MachineError)
    assert isinstance(reason_of(broken(number)), Passing)


@pytest.mark.parametrize("error", [broken(errno.ENOENT), ValueError("no video"), DataError("a.mp4: empty")])
def test_errors_of_files(error: Exception) -> None:
    assert not is_machines(error)
    assert type(data_error("a.mp4: no", error)) is DataError
    assert type(reason_of(error)) is str


def test_a_file_that_could_not_be_opened_once_is_fine_afterwards(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise broken(errno.ESTALE)

    with monkeypatch.context() as patch:
        patch.setattr(truncation, "_promised_bytes", fail)
        found = probe_all([video], root=tmp_path)[video]
        assert isinstance(found, MachineError)
        assert str(found) == f"{video}: cannot be read (something failed)"
    assert isinstance(probe_all([video], root=tmp_path)[video], Video)


def test_a_file_that_is_broken_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"no video at all")
    first = probe_all([file], root=tmp_path)[file]
    monkeypatch.setattr(truncation, "_promised_bytes", lambda *_arguments: pytest.fail("read again"))
    assert isinstance(first, DataError)
    assert str(probe_all([file], root=tmp_path)[file]) == str(first)


@pytest.mark.parametrize("kind", ["video", "avi"])
def test_packets_that_could_not_be_looked_at_are_looked_at_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(kind)

    def fail(*_arguments: object) -> None:
        raise broken(errno.EMFILE)

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_check", fail)
        found = probe_all([path], root=tmp_path)[path]
        assert isinstance(found, Video)
        assert found.packets is not None
        assert found.packets.load() is None
    again = probe_all([path], root=tmp_path)[path]
    assert isinstance(again, Video)
    assert again.packets is not None
    assert again.packets.load() is not None


def test_a_decoder_without_memory_is_no_damage(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    class Failing(frame_table.Reading):
        def decode(self, packet: object) -> list[object]:  # type: ignore[override]
            self._refuse_machines(av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory"))
            raise AssertionError

    monkeypatch.setattr(frame_table, "Reading", Failing)
    found = probe_all([video], root=tmp_path)[video]
    assert isinstance(found, MachineError)
    assert "Cannot allocate memory" in str(found)


def test_a_check_keeps_no_such_error_and_no_list_gets_it(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> str:
        raise broken(errno.EIO)

    with monkeypatch.context() as patch:
        patch.setattr(checking, "content_hash", fail)
        found = check_videos([video], root=tmp_path, workers=0)[video]
        assert found.passing
        assert found.error == "cannot be read (something failed)"
    again = check_videos([video], root=tmp_path, workers=0)[video]
    assert again.fresh
    assert again.error is None
