"""An LSTM whose states are maps and whose weights are convolutions.

Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", NeurIPS 2015,
https://arxiv.org/abs/1506.04214. Deviations: no peephole connections, as in Keras, whose parameters are the same. The
convolution of the input has the one bias that both convolutions share. Gates are logistic as in the paper, where those
of Keras 2 are hard sigmoids; the bias of the forget gate begins at random like the others, where Keras begins with 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least
from kinema.models.layers.stepping import State, mean_step
from kinema.types import ConfigError


class ConvLSTMPool(nn.Module):
    """A convolutional LSTM over the maps of frames; its last state, pooled over the frame.

    Args:
        num_inputs: Channels of a frame's map.
        channels: Filters, which are the channels of the states.
        kernel_size: Of both convolutions.
        stride: Of the convolution of the input. It pads to the same size where this is 1, and not at all otherwise.
        pool: `mean` or `max` over the frame.

    Raises:
        ConfigError: An argument is impossible.
    """

    takes_maps = True
    can_step = True

    def __init__(
        self, num_inputs: int, *, channels: int, kernel_size: int = 3, stride: int = 1, pool: str = "mean"
    ) -> None:
        super().__init__()
        at_least(1, channels=channels, kernel_size=kernel_size, stride=stride)
        self.padding = ((kernel_size - 1) // 2, kernel_size // 2) * 2  # of an even size, one more behind than before
        # Both give the input, forget and output gates and the candidate, in this order.
        self.input = nn.Conv2d(num_inputs, 4 * channels, kernel_size, stride=stride)
        self.recurrent = nn.Conv2d(channels, 4 * channels, kernel_size, bias=False)
        self.pool = pool
        self.num_features = channels

    def states(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B E h2 w2"]:
        """The state behind the last frame."""
        each = self._given(maps.flatten(0, 1))
        given = each.reshape(*maps.shape[:2], *each.shape[1:])
        states = self._begin(given[:, 0])
        for step in range(given.shape[1]):
            states = self._go_on(given[:, step], *states)
        return states[0]

    def step(self, frame: Float[Tensor, "B D h w"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        given = self._given(frame)
        states = self._go_on(given, *(self._begin(given) if state is None else state))
        return self._pooled(states[0]), states

    def _given(self, maps: Tensor) -> Tensor:
        found: Tensor = self.input(self._pad(maps) if self.input.stride[0] == 1 else maps)
        return found

    def _begin(self, given: Tensor) -> tuple[Tensor, Tensor]:
        nothing = given.new_zeros(len(given), self.num_features, *given.shape[2:])
        return nothing, nothing

    def _go_on(self, given: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """State and cell one frame later."""
        gates = given + self.recurrent(self._pad(state))
        keep_in, forget, out = gates[:, : 3 * self.num_features].sigmoid().chunk(3, dim=1)
        cell = forget * cell + keep_in * gates[:, 3 * self.num_features :].tanh()
        return out * cell.tanh(), cell

    def _pad(self, maps: Tensor) -> Tensor:
        return nn.functional.pad(maps, self.padding)

    def forward(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B E"]:
        return self._pooled(self.states(maps))

    def _pooled(self, state: Tensor) -> Tensor:
        return state.amax(dim=(2, 3)) if self.pool == "max" else state.mean(dim=(2, 3))


class MapConvolution(nn.Module):
    """One more convolution on the maps of each frame, then the mean over frame and clip. It cannot see order.

    Args:
        num_inputs: Channels of a frame's map.
        channels: Filters.
        kernel_size: Odd.

    Raises:
        ConfigError: An argument is impossible.
    """

    takes_maps = True
    can_step = True

    def __init__(self, num_inputs: int, *, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        at_least(1, channels=channels, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ConfigError(f"model.kernel_size: has to be odd, got {kernel_size}")
        self.convolution = nn.Conv2d(num_inputs, channels, kernel_size, padding="same")
        self.num_features = channels

    def forward(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B E"]:
        return self._frames(maps.flatten(0, 1)).reshape(*maps.shape[:2], -1).mean(dim=1)

    def step(self, frame: Float[Tensor, "B D h w"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        return mean_step(self._frames(frame), state)

    def _frames(self, maps: Float[Tensor, "N D h w"]) -> Float[Tensor, "N E"]:
        return torch.relu(self.convolution(maps)).mean(dim=(2, 3))
