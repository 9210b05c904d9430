"""Dense optical flow between two grey pictures, and its 8 bits.

Flow is float32 (H, W, 2): how far each pixel of the first picture has moved in the second, in pixels, u to the right
and then v down. There are four methods:

    dis         dense inverse search: Kroeger, Timofte, Dai and Van Gool, "Fast Optical Flow using Dense Inverse
                Search", ECCV 2016 (https://arxiv.org/abs/1603.03590); OpenCV's preset "medium"
    farneback   Farnebäck, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003
    tvl1        Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007, which
                two-stream networks are mostly trained on; OpenCV's parameters, which denseflow has too
    raft        Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020
                (https://arxiv.org/abs/2003.12039): a network, see `kinema.data.raft`

As 8 bits flow is mid-tread: `128 + rint(clip(f, -B, B) * 127 / B)` for a bound of B pixels, 1 to 255. No motion is 128
exactly, and flow the other way, as of a mirrored picture, is 256 less the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from kinema.registry import suggest
from kinema.types import ConfigError

FlowMethod = Literal["dis", "farneback", "tvl1", "raft"]
METHODS: Final[tuple[FlowMethod, ...]] = get_args(FlowMethod)

Estimator = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]
"""First and second picture, (H, W) each -> flow (H, W, 2)."""

ZERO: Final = 128
"""What no motion is as 8 bits, in either direction."""

STORED_BOUND_PX: Final = 20.0
"""Bound of the files of denseflow and of EPIC-KITCHENS."""

_FARNEBACK: Final = {
    "pyr_scale": 0.5,
    "levels": 3,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}
"""As in OpenCV's documentation: 5 x 5 pixels for a polynomial, and the sigma that it names for them."""

_FARNEBACK_LEAST_PX: Final = 32
"""Of the coarsest level that OpenCV makes. In smaller pictures (8 x 8) noise that stands still seems to move."""

_DIS_LEAST_PX: Final = 32
"""OpenCV's DIS refuses pictures below 12 pixels, and crashes (5.0) where one side is below 16 and the other is not.
From 16 on, up to 3000 pixels long, none was seen to; this is twice as much."""


def flow_of(method: str, *, weights: Path | None = None) -> Estimator:
    """A function that finds the flow between two pictures.

    The same pictures give the same flow, whatever was asked before. Pictures that are too small for a method are
    continued with their edge pixels, and the flow is cut again. What is returned does not go from process to process:
    each is to make its own, which takes no time (a network: as long as reading its weights). OpenCV has one thread from
    then on in this process, as whoever computes many pairs has a process for each core.

    Args:
        method: One of `METHODS`.
        weights: Of `raft`: a file of weights; None is what torchvision publishes. The other methods have none.

    Raises:
        ConfigError: There is no such method, it takes no weights, or OpenCV is not installed.
        DataError: The weights cannot be fetched or read, or are not those of RAFT.

    Example:
        >>> picture = np.zeros((48, 64), dtype=np.uint8)
        >>> flow_of("dis")(picture, picture).shape
        (48, 64, 2)
    """
    if method not in METHODS:
        raise ConfigError(f"method: {method!r} is no method of optical flow{suggest(method, METHODS)}")
    if method == "raft":
        from kinema.data.raft import LEAST_PX, MULTIPLE_PX, raft

        return _any_size(raft(weights), least_px=LEAST_PX, multiple_px=MULTIPLE_PX)
    if weights is not None:
        raise ConfigError(f"weights: {method} has none, only raft is a network; leave them out")
    cv2 = _opencv(method)
    # OpenCV's TV-L1 begins with what is left of the last pair where that was of another size, so none is used twice.
    if method == "tvl1":
        return _any_size(lambda first, second: cv2.optflow.DualTVL1OpticalFlow.create().calc(first, second, None))
    if method == "dis":
        preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        return _any_size(
            lambda first, second: cv2.DISOpticalFlow.create(preset).calc(first, second, None), least_px=_DIS_LEAST_PX
        )
    return _any_size(
        lambda first, second: cv2.calcOpticalFlowFarneback(first, second, None, **_FARNEBACK),
        least_px=_FARNEBACK_LEAST_PX,
    )


def made_by(method: str | None) -> str | None:
    """Whose implementation of a method is installed, and of which version: another one may find a little other flow.
    None of what is read from files, and of differences.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    if method not in METHODS:
        return None
    if method == "raft":
        import torchvision

        return f"torchvision {torchvision.__version__.partition('+')[0]}"
    return f"opencv {_opencv(method).__version__}"


def quantise(flow: Float32[np.ndarray, "*shape"], bound_px: float) -> UInt8[np.ndarray, "*shape"]:
    """Flow as 8 bits: 1 to 255, 128 is no motion, and -f is 256 less what f is.

    Args:
        flow: In pixels.
        bound_px: What is faster counts as so fast.

    Raises:
        ConfigError: The bound is not a number above 0.
        ValueError: The flow is not a number somewhere.
    """
    bound_px = _bound(bound_px)
    # In 64 bits: in 32 a flow on the edge between two values may be rounded to either.
    steps = np.rint(np.clip(_numbers(flow), -bound_px, bound_px).astype(np.float64) * (127 / bound_px))
    return (ZERO + steps).astype(np.uint8)


def dequantise(values: UInt8[np.ndarray, "*shape"], bound_px: float) -> Float32[np.ndarray, "*shape"]:
    """Flow in pixels of its 8 bits, right to half a step, which is `bound_px / 254`, where it is within the bound.

    Args:
        values: From `quantise`. It writes no 0, which is read like 1.
        bound_px: That they were written with.

    Raises:
        ConfigError: The bound is not a number above 0.
    """
    steps = np.maximum(values, 1).astype(np.float64) - ZERO
    return (steps * (_bound(bound_px) / 127)).astype(np.float32)


def quantise_magnitude(flow: Float32[np.ndarray, "*shape 2"], bound_px: float) -> UInt8[np.ndarray, "*shape"]:
    """How fast, as 8 bits: 0 is no motion, 255 the bound and all that is faster.

    Args:
        flow: In pixels.
        bound_px: What is faster counts as so fast.

    Raises:
        ConfigError: The bound is not a number above 0.
        ValueError: The flow is not a number somewhere.
    """
    bound_px = _bound(bound_px)
    length_px = np.hypot(*np.moveaxis(_numbers(flow).astype(np.float64), -1, 0))
    return np.rint(np.minimum(length_px, bound_px) * (255 / bound_px)).astype(np.uint8)


def from_stored(
    values: UInt8[np.ndarray, "*shape"], *, bound_px: float, stored_bound_px: float = STORED_BOUND_PX
) -> UInt8[np.ndarray, "*shape"]:
    """Flow as denseflow and EPIC-KITCHENS write it, in our 8 bits.

    There 0 to 255 are -B to B, and no motion would be 127.5. It is written as 128 or 127, which are therefore both
    taken for no motion; else pictures that stand still would seem to drift.

    Args:
        values: u or v, as in the file.
        bound_px: Of the result.
        stored_bound_px: B, of the file.

    Raises:
        ConfigError: A bound is not a number above 0.
    """
    return quantise(stored_px(stored_bound_px), bound_px)[values]


def stored_px(stored_bound_px: float = STORED_BOUND_PX) -> Float32[np.ndarray, "256"]:
    """What each value of such a file is in pixels.

    Args:
        stored_bound_px: B, of the file.

    Raises:
        ConfigError: The bound is not a number above 0.
    """
    stored = np.arange(256, dtype=np.float64)
    flow_px = (stored / 255 * 2 - 1) * _bound(stored_bound_px)
    flow_px[127:129] = 0
    return flow_px.astype(np.float32)


def _any_size(estimate: Callable[[Any, Any], Any], *, least_px: int = 1, multiple_px: int = 1) -> Estimator:
    """A method for pictures of any size.

    Args:
        estimate: For pictures whose rows lie in memory one after the other.
        least_px: Height and width that it needs; what is less is continued on all sides with its edge pixels.
        multiple_px: Likewise, what height and width have to be multiples of.
    """

    def flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        for picture in (first, second):
            if picture.dtype != np.uint8 or picture.ndim != 2 or picture.size == 0:
                raise ValueError(f"optical flow is of grey pictures, uint8 (H, W), not {picture.dtype} {picture.shape}")
        if first.shape != second.shape:
            raise ValueError(f"optical flow is of two pictures of one size, not of {first.shape} and {second.shape}")
        height_px, width_px = first.shape
        padding = _edges(height_px, least_px, multiple_px), _edges(width_px, least_px, multiple_px)
        found = estimate(*(np.ascontiguousarray(np.pad(picture, padding, "edge")) for picture in (first, second)))
        top, left = padding[0][0], padding[1][0]
        return np.ascontiguousarray(found[top : top + height_px, left : left + width_px], dtype=np.float32)

    return flow


def _edges(size_px: int, least_px: int, multiple_px: int) -> tuple[int, int]:
    """Pixels that are to be added before and behind."""
    missing = max(least_px, -(-size_px // multiple_px) * multiple_px) - size_px
    return missing // 2, missing - missing // 2


def _opencv(method: str) -> Any:
    """OpenCV, with one thread."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(f'method: {method} needs OpenCV ({error}): pip install "kinema[opencv]"') from None
    if method == "tvl1" and not hasattr(cv2, "optflow"):
        raise ConfigError(
            "method: tvl1 needs OpenCV's contributed modules, which this one lacks: remove every package opencv-*, "
            'then pip install "kinema[opencv]"'
        )
    cv2.setNumThreads(1)
    return cv2


def _bound(bound_px: float) -> float:
    if not (math.isfinite(bound_px) and bound_px > 0):
        raise ConfigError(f"bound: {bound_px} px is no bound of flow; give a number above 0")
    return float(bound_px)


def _numbers(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    if np.isnan(flow).any():
        raise ValueError("flow that is not a number (NaN) cannot be kept as 8 bits")
    return flow
