"""Files of tensors, read without running any code that a stranger could have put there."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from kinema.types import DataError

UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    OSError,
)
"""What the readers of torch and safetensors raise for files that are not what their names say."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a PyTorch checkpoint without running any code in it.

    Raises:
        DataError: The file is missing, or holds no state dictionary.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about a strange file that is refused in the next line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as weights: {reason(error)}") from None
    for key in ("state_dict", "model_state_dict", "model_state", "model", "net", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise DataError(f"{path}: holds no state dictionary (name -> tensor)")
    return tensors


def reason(error: Exception) -> str:
    """Why a file is no file of weights, in one line."""
    if isinstance(error, pickle.UnpicklingError):  # torch's own message advises to read it unsafely
        return "not a file of tensors alone, and what a stranger may have written is not unpickled"
    if isinstance(error, LookupError | EOFError | struct.error):
        return "not a file of tensors, or a part of one"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
