"""Whether the model of a setting can be built at all."""

from __future__ import annotations

import torch
from torch import nn

from kinema.models.build import build_model
from kinema.models.freezing import freeze
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
from kinema.preprocessing import shapes, streams_of
from kinema.sections import Recipe
from kinema.types import Heads


def check_buildable(recipe: Recipe, classes: Heads) -> nn.Module:
    """See that a recipe's model can be built for its clips, takes them, and has what is to be frozen: on torch's meta
    device, without memory or weights.

    Args:
        recipe: It.
        classes: Task -> class names.

    Returns:
        The model, on the meta device.

    Raises:
        ConfigError: It cannot be built, or has no such part.
    """
    inputs = shapes(streams_of(recipe, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    arguments = recipe.model.arguments()
    with torch.device("meta"):
        model = build_model(recipe.model.name, arguments, heads=classes, inputs=inputs)
    freeze(model, recipe.init.freeze, train_last=recipe.init.train_last)
    return model
