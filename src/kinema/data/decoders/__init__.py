"""Decoders of video other than PyAV, which `kinema.data.decoding` is.

Truth is the order in which frames come out of PyAV's full sequential decode. Each decoder here was held against it on
every encoding that the tests can make and on real files, and refuses by name what it is not exact on.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from kinema.data.decoders.common import Decoder, refused
from kinema.data.video import Video
from kinema.types import ConfigError

__all__ = ["Decoder", "check_decoder", "decoder", "described"]

_PACKAGES = {
    "torchcodec": ("torchcodec",),
    "torchcodec_cuda": ("torchcodec",),
    "opencv": ("opencv-python-headless", "opencv-contrib-python-headless", "opencv-python", "opencv-contrib-python"),
}


def decoder(name: str) -> Decoder:
    """The decoder that `clips.decoder` names.

    Raises:
        ConfigError: There is none of that name here, or what it needs is not installed.
    """
    if name == "opencv":
        from kinema.data.decoders.opencv import OpenCV

        return OpenCV()
    if name in ("torchcodec", "torchcodec_cuda"):
        from kinema.data.decoders.torchcodec import TorchCodec

        return TorchCodec("cuda" if name == "torchcodec_cuda" else "cpu")
    raise ConfigError(
        f"clips.decoder={name}: unknown here; there are torchcodec, torchcodec_cuda and opencv, and pyav by default"
    )


def check_decoder(name: str, videos: Iterable[Video]) -> None:
    """Make sure, before anything is decoded, that a decoder is there and exact on all of these videos.

    Args:
        name: What `clips.decoder` says.
        videos: What `probe` returned. Images and stores are passed over: nothing of them is decoded so.

    Raises:
        ConfigError: There is no such decoder, or what it needs is not installed.
        DataError: It is not exact on one of the videos.
    """
    if name == "pyav":
        return
    chosen = decoder(name)
    files = [video for video in videos if not video.is_images and video.container != "store"]
    reasons = [(video, reason) for video in files if (reason := chosen.refusal(video)) is not None]
    if reasons:
        video, reason = reasons[0]
        others = f" (and so are {len(reasons) - 1} others of {len(files)})" if len(reasons) > 1 else ""
        raise refused(name, video, reason + others)


def described(name: str) -> str:
    """What decodes and scales, as far as pixels may depend on it: the major versions of FFmpeg's libraries. Their minor
    versions mend and add; a decoder other than PyAV brings an FFmpeg of its own, which its version stands for.

    Args:
        name: What `clips.decoder` says.
    """
    import av

    versions = {library: found[0] for library, found in av.library_versions.items()}
    if name == "pyav":
        return f"pyav, libavcodec {versions['libavcodec']}, libswscale {versions['libswscale']}"
    own = "of unknown version"
    for package in _PACKAGES[name]:
        try:
            own = ".".join(importlib.metadata.version(package).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{name} {own}, libswscale {versions['libswscale']}"
