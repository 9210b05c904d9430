"""Opening a video file and going through its packets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinema.data.machine import MachineError, data_error, is_machines
from kinema.types import DataError


class Reading:
    """One pass over the packets of a stream. All of it raises a `MachineError` where the machine fails, which is no
    damage of the file.

    Attributes:
        damaged: Whether anything so far could not be read or decoded in full.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.damaged = False
        self._container = container
        self._stream = stream

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """All packets, and an empty one at the end that makes the decoder give what it holds back."""
        try:
            for packet in self._container.demux(self._stream):
                self.damaged |= packet.is_corrupt
                yield packet
        except (av.FFmpegError, IndexError) as error:
            self._refuse_machines(error)
            # What comes behind cannot be read; or it is the end, where PyAV stumbles over streams that began late.
            self.damaged |= not isinstance(error, IndexError)
            yield cast("Packet[VideoStream]", Packet())

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Frames that come out when a packet goes in. A packet that does not decode is passed over."""
        try:
            frames = self._stream.decode(packet if packet.size else None)
        except av.FFmpegError as error:
            self._refuse_machines(error)
            self.damaged = True
            return []
        self.damaged |= any(frame.is_corrupt for frame in frames)
        return frames

    def frames(self, packets: Iterable[Packet[VideoStream]] | None = None) -> Iterator[VideoFrame]:
        """Frames in display order, of all packets or of those given."""
        for packet in self.packets() if packets is None else packets:
            yield from self.decode(packet)

    def _refuse_machines(self, error: Exception) -> None:
        if is_machines(error):
            name = self._container.name.removeprefix("file:")
            raise MachineError(f"{name}: cannot be read to its end ({error})") from None


def check_file(path: Path) -> None:
    """Refuse what is not a file with something in it.

    Raises:
        DataError: There is no such file, it is empty or cannot be read.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty (0 bytes)")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise data_error(f"{path}: cannot be read ({error.strerror})", error) from None


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream that is not a cover picture, set to decode in one thread.

    Raises:
        DataError: FFmpeg cannot read it, or there is no such stream.
    """
    try:
        # With the prefix, `a:b.avi` is not taken for a protocol. Metadata that are not UTF-8 are common in AVI.
        container = av.open(f"file:{path}", "r", metadata_errors="replace")
    except av.FFmpegError as error:
        if is_machines(error):
            raise MachineError(f"{path}: cannot be opened ({error.strerror})") from None
        raise DataError(f"{path}: not a video that FFmpeg can read ({error.strerror})") from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise DataError(f"{path}: no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise DataError(f"{path}: its video stream is in a codec that FFmpeg does not know")
        # Threads would not change a sound file; of a damaged one they would change what decodes.
        stream.codec_context.thread_count = 1
        yield container, stream


def codec_name(stream: VideoStream) -> str:
    """FFmpeg's name of the codec, whichever decoder it uses."""
    return stream.codec_context.codec.canonical_name
