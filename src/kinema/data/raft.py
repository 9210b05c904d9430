"""RAFT, a network for optical flow: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV
2020 (https://arxiv.org/abs/2003.12039), as torchvision has it.

Deviations from the paper: pictures are grey, the same three times, though it was trained on colour. 12 updates,
torchvision's default; the paper evaluates 12 to 32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kinema.state_dict import UNREADABLE, read_state_dict, reason
from kinema.types import DataError

LEAST_PX: Final = 128
"""Of height and width: after three halvings of features at an eighth of the size two pixels have to be left."""
MULTIPLE_PX: Final = 8
"""Height and width are multiples of it."""


def raft(weights: Path | None) -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]:
    """A function that finds flow (H, W, 2) between two grey pictures (H, W) of a size that RAFT takes, on the CPU.

    Args:
        weights: File of weights of torchvision's `raft_large` or `raft_small`: its keys say which. None is what
            torchvision publishes of `raft_large` (C_T_SKHT_V2, 21 MB), fetched once.

    Raises:
        DataError: The weights cannot be fetched or read, or are not those of RAFT.
    """
    network = _network(weights)

    def estimate(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        pair = torch.from_numpy(np.stack([first, second]))[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
        with torch.inference_mode():
            flow: Tensor = network(pair[:1], pair[1:])[-1]  # it gives the flow after every update
        return flow[0].permute(1, 2, 0).numpy()

    return estimate


def _network(weights: Path | None) -> nn.Module:
    from torchvision.models import optical_flow

    state = _published() if weights is None else read_state_dict(weights)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}  # saved by several processes
    # The small network has no mask for upsampling.
    is_large = any(name.startswith("mask_predictor.") for name in state)
    network: nn.Module = (optical_flow.raft_large if is_large else optical_flow.raft_small)(weights=None)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise DataError(
            f"{weights}: not the weights of torchvision's raft_large or raft_small: names or shapes of tensors differ"
        ) from None
    return network.eval()


def _published() -> dict[str, Tensor]:
    from torchvision.models.optical_flow import Raft_Large_Weights

    published: Any = Raft_Large_Weights.DEFAULT
    try:
        # A file in the download folder may have been put there by anybody: no code in it is run.
        return dict(published.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except UNREADABLE as error:
        raise DataError(
            f"weights: the published weights of RAFT cannot be fetched ({reason(error)}); download {published.url} "
            "elsewhere and give the path of the file"
        ) from None
