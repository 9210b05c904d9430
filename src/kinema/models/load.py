"""From a weights folder back to a model."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, read_config
from kinema.state_dict import read_state_dict
from kinema.types import DataError


def load_model(folder: Path) -> tuple[nn.Module, WeightsConfig]:
    """The model of a weights folder, in evaluation mode on the CPU, and how to feed it.

    Raises:
        DataError: The folder is not a weights folder, or its tensors are not this model's.
        ConfigError: Its model is not registered here.
    """
    config = read_config(folder)
    model = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
    state = read_state_dict(folder / "model.safetensors")
    own = model.state_dict()
    wrong = sorted(
        [name for name in own if name not in state or state[name].shape != own[name].shape]
        + [name for name in state if name not in own]
    )
    if wrong:
        raise DataError(
            f"{folder / 'model.safetensors'}: {len(wrong)} tensors do not belong to the model in config.json, "
            f"such as {wrong[0]}; the folder is mixed up or of another version"
        )
    model.load_state_dict(state)
    return model.eval(), config
