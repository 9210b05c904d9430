"""Colours of pictures: those of the pages' light style sheet, and what heat is drawn with."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL.ImageColor import getrgb

GROUND, PANEL, INK, SOFT, RULE, TRACK = "#fbfbfa", "#ffffff", "#1c2024", "#5c656e", "#dcdfe2", "#eef0f2"
BLUE, ORANGE, AMBER = "#0072b2", "#d55e00", "#e69f00"

# Brighter is more; each step to the eye as large as the next, for the colour-blind too.
HEAT = ("#000004", "#280b54", "#65156e", "#9f2a63", "#d44842", "#f57d15", "#fac127", "#fcffa4")
"""Eight colours of the map `inferno` of matplotlib, which its authors gave to the public domain (CC0)."""
WEIGHT = (PANEL, "#bfdcec", "#56b4e9", BLUE, "#004b76", INK)
"""From none to all on paper."""


def coloured(values: Float[np.ndarray, "*shape"], colours: tuple[str, ...]) -> UInt8[np.ndarray, "*shape 3"]:
    """Numbers from 0 to 1 as colours, evenly between those that are given."""
    stops = np.array([getrgb(colour) for colour in colours], dtype=np.float64)
    at = np.clip(np.nan_to_num(values), 0, 1)
    places = np.linspace(0, 1, len(stops))
    return (
        np.stack([np.interp(at, places, stops[:, channel]) for channel in range(3)], axis=-1).round().astype(np.uint8)
    )
