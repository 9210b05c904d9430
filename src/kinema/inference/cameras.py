"""The cameras of this machine."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kinema.types import DataError

_SYS = Path("/sys/class/video4linux")
_DEV = Path("/dev")

# Of Linux' videodev2.h: VIDIOC_QUERYCAP, and what it says of a device that captures, in planes or not.
_QUERYCAP = 0x80685600
_CAPABILITY = struct.Struct("16s32s32s3I12x")
_CAPTURES = 0x1 | 0x1000
_OF_DEVICE = 0x80000000  # capabilities of this device are told beside those of the whole


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera.

    Attributes:
        index: What `--source` takes.
        name: As its maker calls it.
        place: Its device.
        problem: Why it cannot be used, if it cannot.
    """

    index: int
    name: str
    place: str
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """How FFmpeg is to be asked for a camera.

    Attributes:
        format: Its name of the system's cameras.
        address: Which of them.
    """

    format: str
    address: str


def cameras() -> list[Camera]:
    """All that can capture, and those of which this cannot be found out.

    Raises:
        DataError: This system's cameras cannot be listed from here.
    """
    if sys.platform.startswith("linux"):
        return linux_cameras()
    return [
        Camera(index=index, name=name or address, place=address) for index, (address, name) in enumerate(_devices())
    ]


def camera_place(index: int) -> Place:
    """Where a camera is.

    Raises:
        DataError: There is no such camera, or it cannot be used; the message says what to do.
    """
    if sys.platform.startswith("linux"):
        path = _DEV / f"video{index}"
        check_device(path, f"camera {index}")
        return Place(format="v4l2", address=str(path))
    if sys.platform == "darwin":
        return Place(format="avfoundation", address=f"{index}:none")
    found = _devices()
    if index >= len(found):
        raise DataError(f"camera {index}: there are {len(found)} cameras; kinema watch --list shows them")
    return Place(format="dshow", address=f"video={found[index][0]}")


def check_device(path: Path, name: str) -> None:
    """Refuse what cannot be opened.

    Raises:
        DataError: It is not there, or not to be read.
    """
    if not path.exists():
        raise DataError(f"{name}: there is no {path}; kinema watch --list shows what cameras there are")
    if not os.access(path, os.R_OK | os.W_OK):
        raise DataError(
            f"{name}: no permission to use {path}; join the group that may (mostly: sudo usermod -aG video $USER) and "
            "log in again"
        )


def linux_cameras(
    sys_folder: Path = _SYS, dev_folder: Path = _DEV, ask: Callable[[Path], int] | None = None
) -> list[Camera]:
    """What the kernel lists, by number.

    Args:
        sys_folder: Where it does.
        dev_folder: Where devices are.
        ask: Capabilities of a device; by default the driver is asked.
    """
    found = []
    numbers = sorted(
        int(digits) for entry in _entries(sys_folder) if (digits := entry.name.removeprefix("video")).isdigit()
    )
    for number in numbers:
        place = dev_folder / f"video{number}"
        try:
            name = (sys_folder / f"video{number}" / "name").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            name = ""
        problem = None
        try:
            check_device(place, "")
            # Most webcams have a second device, for metadata, which gives no pictures.
            if not (ask or _capabilities)(place) & _CAPTURES:
                continue
        except DataError as error:
            problem = str(error).removeprefix(": ")
        except OSError as error:
            problem = error.strerror
        found.append(Camera(index=number, name=name or place.name, place=str(place), problem=problem))
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.name.startswith("video")]
    except OSError:  # a kernel without cameras has no such folder
        return []


def _capabilities(place: Path) -> int:
    import fcntl

    device = os.open(place, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = fcntl.ioctl(device, _QUERYCAP, bytes(_CAPABILITY.size))
    finally:
        os.close(device)
    _, _, _, _, of_all, of_device = _CAPABILITY.unpack(answer)
    return int(of_device if of_all & _OF_DEVICE else of_all)


def _devices() -> list[tuple[str, str]]:
    """Address and name of each camera, as FFmpeg has them."""
    import av

    name = "avfoundation" if sys.platform == "darwin" else "dshow"
    list_all = getattr(av, "enumerate_input_devices", None)  # not in every version
    try:
        if list_all is None:
            raise ValueError("this version of PyAV does not list them")
        return [(each.name, each.description) for each in list_all(name) if "video" in each.media_types]
    except (av.FFmpegError, ValueError) as error:
        raise DataError(
            f"cameras cannot be listed here ({error}); ffmpeg -f {name} -list_devices true -i '' does it"
        ) from None
