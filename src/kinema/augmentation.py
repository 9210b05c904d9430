"""Random changes of training clips: the keys of a recipe's `clips.augmentation`, and sets of them that have names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from kinema.registry import suggest
from kinema.section import PositiveInt, Probability, Section

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {"jitter": False, "flip": 0.0, "min_scale": 1.0, "colour": 0.0},
    "light": {"jitter": True, "flip": 0.5, "min_scale": 0.7, "colour": 0.2},
    # What phase 2 of the EPIC-KITCHENS project states. It says of colours only that they were changed, not by how much:
    # these are the strengths that are common for ImageNet.
    "aggressive": {
        "jitter": False,
        "flip": 0.5,
        "min_scale": 1.0,
        "rotation_deg": 15.0,
        "colour": 0.4,
        "hue": 0.1,
        "grey": 0.1,
        "erase": 0.15,
    },
}
"""Name -> keys that it sets. The others are as they are by default, which is `light`."""

RAND_MAGNITUDES: Final = 30
"""The highest magnitude of RandAugment."""
_RAND_MAGNITUDE: Final = 9
"""What torchvision takes."""


class Augmentation(Section):
    """Random changes of a training clip, the same for all of its frames. The name of a preset stands for its keys."""

    preset: Literal["none", "light", "aggressive"] | None = Field(default=None, exclude=True)
    """Take the keys that are not given from these: `light` (as by default), `aggressive`, `none`."""
    views: PositiveInt | None = None
    """How many random versions of a clip there are; epochs take turns. null: a new one in every epoch. With a frozen
    backbone, a number lets the features of all versions be computed once."""
    jitter: bool = True
    """Draw each frame's time at random inside its own share of the clip, instead of its middle; with `frame_stride`,
    where the frames begin, instead of having them in the middle; with `clips.window_s`, where the window lies, and
    each frame inside its own share of that."""
    frame_stride: tuple[PositiveInt, PositiveInt] | None = None
    """Random frame rate: instead of spreading them over the clip, take frames of the video that lie so many frames
    apart, drawn from a range ([1, 5]). Of a clip that is too short the frames lie closer."""
    flip: Probability = 0.5
    """Probability of a horizontal flip. 0 where classes tell left from right."""
    min_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """Smallest area of a random crop, as a share of the whole crop. 1 is no random crop."""
    max_aspect: Annotated[float, Field(ge=1.0, le=10.0)] = 1.0
    """Random crops are up to so many times wider, or higher, than the whole crop (4/3: 1.333). 1 keeps its shape."""
    multi_scale: tuple[float, ...] = ()
    """Crops of these shares of the frame's short side ([1, 0.875, 0.75, 0.66]), at a corner or in the centre, in place
    of `min_scale`."""
    rotation_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Largest angle by which clips are turned, to either side."""
    colour: Probability = 0.2
    """Strength of random brightness, contrast and saturation."""
    brightness: Probability | None = None
    """Strength of random brightness. null: `colour`."""
    contrast: Probability | None = None
    """Strength of random contrast. null: `colour`."""
    saturation: Probability | None = None
    """Strength of random saturation. null: `colour`."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """How far hues are turned at most, as a share of the circle of colours."""
    grey: Probability = 0.0
    """Probability of no colour at all."""
    blur: Probability = 0.0
    """Probability of a Gaussian blur, of 0.1 to 2 pixels."""
    erase: Probability = 0.0
    """Probability that a rectangle of 2 to 33 % of the frame is replaced by the mean colour."""
    rand_augment: Annotated[int, Field(ge=0, le=14)] = 0
    """Operations of RandAugment that each clip gets. 2 in its paper."""
    rand_magnitude: Annotated[int, Field(ge=0, le=RAND_MAGNITUDES)] = _RAND_MAGNITUDE
    """How strong they are, of 30."""
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    """Train on weighted means of two clips each; shares are drawn from a Beta distribution with this as both
    parameters. 0: no mixup."""
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0
    """Train on clips with a rectangle of another one in them; the share of its area is drawn likewise. 0: no CutMix.
    With both, each batch has one of them."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"preset": values}
        if not isinstance(values, Mapping):
            return values
        given = dict(values)
        name = given.pop("preset", None)
        if name is not None and (not isinstance(name, str) or name not in PRESETS):
            raise ValueError(f"there is no preset {name!r}{suggest(str(name), PRESETS)}")
        preset = dict(PRESETS[name]) if name is not None else {}
        if given.get("multi_scale"):
            preset["min_scale"] = 1.0
        return {**preset, **given}

    @model_validator(mode="after")
    def _possible(self) -> Augmentation:
        for key, is_given in (("min_scale", self.min_scale < 1), ("max_aspect", self.max_aspect > 1)):
            if self.multi_scale and is_given:
                value = getattr(self, key)
                raise ValueError(f"multi_scale and {key} ({value:g}) are two ways of cutting; give {key}=1 beside it")
        if not all(0 < scale <= 1 for scale in self.multi_scale):
            raise ValueError(f"multi_scale: {list(self.multi_scale)}: shares of the short side are above 0, up to 1")
        if self.frame_stride is not None and self.frame_stride[0] > self.frame_stride[1]:
            raise ValueError(f"frame_stride: {list(self.frame_stride)}: the smaller number comes first")
        if self.rand_magnitude != _RAND_MAGNITUDE and not self.rand_augment:
            raise ValueError("rand_magnitude has a meaning with rand_augment only; give that too (2)")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Editors offer the presets' names too."""
        keys = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"enum": list(PRESETS)}, keys]}

    @property
    def colours(self) -> tuple[float, float, float]:
        """Strengths of brightness, contrast and saturation."""
        own = self.brightness, self.contrast, self.saturation
        brightness, contrast, saturation = (self.colour if strength is None else strength for strength in own)
        return brightness, contrast, saturation

    @property
    def takes_others(self) -> bool:
        """Whether versions of a clip are other frames of it, or other parts of them."""
        strides = self.frame_stride is not None and self.frame_stride[0] < self.frame_stride[1]
        return self.jitter or strides or self.min_scale < 1 or self.max_aspect > 1 or bool(self.multi_scale)

    @property
    def changes_more(self) -> bool:
        """Whether anything is changed on the device beside side, brightness, contrast and saturation."""
        shares = self.rotation_deg, self.hue, self.grey, self.blur, self.erase, self.rand_augment
        return any(share > 0 for share in shares)

    @property
    def num_views(self) -> int | None:
        """Versions of a clip that differ: 1 where nothing is random, None where every epoch has its own."""
        still = not (self.takes_others or self.flip > 0 or any(self.colours) or self.changes_more)
        return 1 if still else self.views
