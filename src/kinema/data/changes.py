"""Random changes of a training clip that are made on the device: what is drawn for each clip, and how it is done.

Everything is drawn once per clip and done to all of its frames alike. That goes for what is measured too: where an
operation depends on the picture (contrast, RandAugment's AutoContrast and Equalize), it is measured on all frames of
the clip together, as if they were one picture; otherwise a light that is switched on would change the frames behind it.

The operations themselves are torchvision's (`torchvision.transforms.v2.functional`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from kinema.augmentation import RAND_MAGNITUDES, Augmentation

_BLUR_PX: Final = (0.1, 2.0)
"""Standard deviations of the blur, as by default in torchvision."""
_ERASED: Final = (0.02, 0.33)
"""Shares of the frame's area, and"""
_ERASED_ASPECT: Final = (0.3, 3.3)
"""height over width of what is erased, as by default in torchvision."""
_ATTEMPTS: Final = 10
"""To draw a rectangle that is inside the frame, as torchvision does."""

_TRANSLATED: Final = 150 / 331
"""RandAugment moves a frame by up to this share of its size."""

RAND_OPERATIONS: Final = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""Of RandAugment (https://arxiv.org/abs/1909.13719), by torchvision's names, in its order."""

_SIGNED: Final = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateX": _TRANSLATED,
    "TranslateY": _TRANSLATED,
    "Rotate": 30.0,
} | (dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9))
"""Operation -> what it goes up to, to either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What was drawn for a clip, beside mirroring, brightness, contrast and saturation.

    Attributes:
        rotation_deg: Counterclockwise.
        operations: Of RandAugment, in their order: name and magnitude, in torchvision's measure but for movements,
            which are shares of the frame.
        hue: By how much hues are turned, as a share of the circle.
        grey: Whether it has no colour.
        blur_px: Standard deviation; 0 is none.
        erased: Top, left, height and width of what is erased, as shares of the frame.
    """

    rotation_deg: float = 0.0
    operations: tuple[tuple[str, float], ...] = ()
    hue: float = 0.0
    grey: bool = False
    blur_px: float = 0.0
    erased: tuple[float, float, float, float] | None = None

    @property
    def num_drawn(self) -> int:
        """Settings that are another than of a clip of which nothing is changed."""
        plain = Changes()
        return sum(getattr(self, name) != getattr(plain, name) for name in self.__slots__)

    @property
    def of_motion(self) -> Changes:
        """What of it is done to fields of motion."""
        return Changes(erased=self.erased)

    @property
    def facts(self) -> dict[str, Any]:
        """Of JSON types."""
        return asdict(self)


def draw_colour(augmentation: Augmentation, rng: np.random.Generator) -> tuple[float, float, float] | None:
    """Factors of brightness, contrast and saturation; None where none of them changes."""
    strengths = np.array(augmentation.colours)
    if not strengths.any():
        return None
    brightness, contrast, saturation = rng.uniform(1 - strengths, 1 + strengths).tolist()
    return brightness, contrast, saturation


def draw_changes(augmentation: Augmentation, *, seed: int, view: int, index: int) -> Changes | None:
    """What else is changed of a clip; None where the recipe changes nothing of that kind.

    The same numbers are drawn whatever is switched on, so that switching something on leaves the rest as it was.

    Args:
        augmentation: The recipe's.
        seed: Of the augmentation.
        view: Which random version of the clip.
        index: Where in the list the clip is.
    """
    if not augmentation.changes_more:
        return None
    rng = np.random.default_rng([seed, view, index, 1])  # not what frames and colours are drawn from
    rotation, hue, grey, is_blurred, blur, is_erased = rng.random(6).tolist()
    rectangles = rng.random((_ATTEMPTS, 4))
    operations = rng.random((len(RAND_OPERATIONS), 2))[: augmentation.rand_augment]
    return Changes(
        rotation_deg=(2 * rotation - 1) * augmentation.rotation_deg,
        operations=tuple(_operation(which, sign, augmentation.rand_magnitude) for which, sign in operations.tolist()),
        hue=(2 * hue - 1) * augmentation.hue,
        grey=grey < augmentation.grey,
        blur_px=_BLUR_PX[0] + blur * (_BLUR_PX[1] - _BLUR_PX[0]) if is_blurred < augmentation.blur else 0.0,
        erased=_rectangle(rectangles) if is_erased < augmentation.erase else None,
    )


def _operation(which: float, sign: float, level: int) -> tuple[str, float]:
    """One of RandAugment's, and how strong: the level says it, chance only to which side."""
    name = RAND_OPERATIONS[int(which * len(RAND_OPERATIONS))]
    share = level / RAND_MAGNITUDES
    if name in _SIGNED:
        return name, _SIGNED[name] * share * (-1 if sign <= 0.5 else 1)
    if name == "Posterize":
        return name, 8 - round(4 * share)
    return name, 1 - share if name == "Solarize" else 0.0


def _rectangle(numbers: Any) -> tuple[float, float, float, float] | None:
    """As torchvision's RandomErasing draws it, in shares of the frame."""
    for area, aspect, top, left in numbers.tolist():
        area = _ERASED[0] + area * (_ERASED[1] - _ERASED[0])
        low, high = map(math.log, _ERASED_ASPECT)
        stretch = math.exp(low + aspect * (high - low))
        height, width = math.sqrt(area * stretch), math.sqrt(area / stretch)
        if height < 1 and width < 1:
            return top * (1 - height), left * (1 - width), height, width
    return None


def before_colour(frames: Float[Tensor, "T C H W"], changes: Changes) -> Float[Tensor, "T C H W"]:
    """What moves pixels, and RandAugment: done first.

    Args:
        frames: RGB in 0..1 of one clip.
        changes: What was drawn for it.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    if changes.rotation_deg:
        frames = F.rotate(frames, changes.rotation_deg, interpolation=InterpolationMode.BILINEAR)
    for name, magnitude in changes.operations:
        frames = rand_operation(frames, name, magnitude)
    return frames


def after_colour(frames: Float[Tensor, "T C H W"], changes: Changes) -> Float[Tensor, "T C H W"]:
    """Hue, grey and blur, in this order.

    Args:
        frames: RGB in 0..1 of one clip.
        changes: What was drawn for it.
    """
    from torchvision.transforms.v2 import functional as F

    if changes.hue:
        frames = F.adjust_hue(frames, changes.hue)
    if changes.grey:
        frames = F.rgb_to_grayscale(frames, num_output_channels=3)
    if changes.blur_px:
        frames = F.gaussian_blur(frames, kernel_size=_kernel(changes.blur_px, frames), sigma=changes.blur_px)
    return frames


def erase(values: Float[Tensor, "T C H W"], changes: Changes) -> None:
    """Replace what is to be erased by 0, which in normalised values is the mean colour.

    Args:
        values: Normalised, of one clip; they are changed.
        changes: What was drawn for it.
    """
    if changes.erased is None:
        return
    height_px, width_px = values.shape[-2:]
    top, left, height, width = changes.erased
    top_px, left_px = round(top * height_px), round(left * width_px)
    rows = slice(top_px, top_px + max(1, round(height * height_px)))
    columns = slice(left_px, left_px + max(1, round(width * width_px)))
    values[..., rows, columns] = 0


def _kernel(sigma_px: float, frames: Tensor) -> int:
    """Odd, wide enough for 99.7 % of the bell, and narrower than the frame, which is mirrored at its edges."""
    shorter_px = min(frames.shape[-2:])
    return 2 * min(math.ceil(3 * sigma_px), (shorter_px - 1) // 2) + 1


def rand_operation(frames: Float[Tensor, "T 3 H W"], name: str, magnitude: float) -> Float[Tensor, "T 3 H W"]:
    """One of RandAugment's operations on one clip.

    Args:
        frames: RGB in 0..1.
        name: From `RAND_OPERATIONS`.
        magnitude: As in `Changes.operations`.
    """
    from torchvision.transforms.v2 import functional as F

    height_px, width_px = frames.shape[-2:]
    match name:
        case "ShearX":
            return _moved(frames, shear=[math.degrees(math.atan(magnitude)), 0.0], center=[0, 0])
        case "ShearY":
            return _moved(frames, shear=[0.0, math.degrees(math.atan(magnitude))], center=[0, 0])
        case "TranslateX":
            return _moved(frames, translate=[int(magnitude * width_px), 0])
        case "TranslateY":
            return _moved(frames, translate=[0, int(magnitude * height_px)])
        case "Rotate":
            return F.rotate(frames, magnitude)
        case "Brightness":
            return F.adjust_brightness(frames, 1 + magnitude)
        case "Color":
            return F.adjust_saturation(frames, 1 + magnitude)
        case "Contrast":
            return _as_one(frames, lambda picture: F.adjust_contrast(picture, 1 + magnitude))
        case "Sharpness":
            return F.adjust_sharpness(frames, 1 + magnitude)
        case "Posterize":
            return F.posterize(frames, int(magnitude))
        case "Solarize":
            return F.solarize(frames, magnitude)
        case "AutoContrast":
            return _as_one(frames, F.autocontrast)
        case "Equalize":
            return _as_one(frames, F.equalize)
    return frames  # Identity


def _moved(frames: Tensor, **how: Any) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.affine(frames, **{"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | how)


def _as_one(frames: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of a picture that depends on what is in it, on all frames below one another."""
    num_frames, channels, height_px, width_px = frames.shape
    picture = frames.transpose(0, 1).reshape(channels, num_frames * height_px, width_px)
    return function(picture).view(channels, num_frames, height_px, width_px).transpose(0, 1)
