"""Long short-term attention: a convolutional LSTM that looks at one part of the frame, and remembers where.

Sudhakaran, Escalera and Lanz, "LSTA: Long Short-Term Attention for Egocentric Action Recognition", CVPR 2019,
https://arxiv.org/abs/1811.10698. Names of the paper: the attention's memory a, the memory c, the bank of class maps w.
Deviations:

- A map is pooled with a mixture of the bank's rows, weighted by a softmax over their scores, where the original takes
  the row with the highest: of that choice the weights that couple input and output (w_o) have no gradient. The authors
  did the same later, in "Learning to Recognize Actions on Objects in Egocentric Video with Attention Dictionaries"
  (2021).
- The bank over the input is learned from scratch; the original begins with the classifier of ImageNet.
- As in the authors' code, the attention's states are gated sums of one channel, and the output gate sees the state that
  is pooled channel by channel.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least
from kinema.models.layers.stepping import State
from kinema.types import ConfigError


class LSTAPool(nn.Module):
    """Long short-term attention over the maps of frames; its memory, averaged over the frame.

    Args:
        num_inputs: Channels of a frame's map.
        channels: Of the memory.
        bank: Rows of each bank: parts of a frame, and of the memory, that can be looked for.
        kernel_size: Of all convolutions; odd.

    Raises:
        ConfigError: An argument is impossible.
    """

    takes_maps = True
    can_step = True

    def __init__(self, num_inputs: int, *, channels: int, bank: int, kernel_size: int = 3) -> None:
        super().__init__()
        at_least(1, channels=channels, bank=bank, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ConfigError(f"model.kernel_size: has to be odd, got {kernel_size}")
        self.num_features = channels
        self.find = nn.Linear(num_inputs, bank, bias=False)
        # Input, forget and output gate, and candidate, of the one map that is the attention's memory.
        self.attention = nn.Conv2d(2, 4, kernel_size, padding="same")
        # Input and forget gate, and candidate, of the memory.
        self.input = nn.Conv2d(num_inputs, 3 * channels, kernel_size, padding="same")
        self.recurrent = nn.Conv2d(channels, 3 * channels, kernel_size, padding="same", bias=False)
        self.pooled = nn.Linear(channels, bank, bias=False)
        self.coupling = nn.Linear(num_inputs, bank, bias=False)
        self.output = nn.Conv2d(2 * channels, channels, kernel_size, padding="same")

    def forward(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B E"]:
        return self.run(maps)[0].mean(dim=(2, 3))

    def run(self, maps: Float[Tensor, "B T D h w"]) -> tuple[Float[Tensor, "B E h w"], Float[Tensor, "B T h w"]]:
        """The memory behind the last frame, and where it looked in each."""
        states = None
        looked = []
        for frame in maps.unbind(dim=1):
            look, states = self._go_on(frame, states)
            looked.append(look[:, 0])
        assert states is not None
        return states[0], torch.stack(looked, dim=1)

    def step(self, frame: Float[Tensor, "B D h w"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        _, states = self._go_on(frame, state)
        return states[0].mean(dim=(2, 3)), states

    def _go_on(self, frame: Float[Tensor, "B D h w"], state: State) -> tuple[Float[Tensor, "B 1 h w"], State]:
        """Where it looks in the frame, and its states behind it: memory, output gate, attention's memory and output."""
        if state is None:
            nothing = frame.new_zeros(len(frame), self.num_features, *frame.shape[2:])
            state = nothing, nothing, nothing[:, :1], nothing[:, :1]
        memory, out, place, shown = state
        found = self._class_map(frame)
        take, forget, show, new = self.attention(torch.cat([found, shown], dim=1)).chunk(4, dim=1)
        place = forget.sigmoid() * place + take.sigmoid() * new.tanh()
        shown = show.sigmoid() * place.tanh()
        look = (found + shown).flatten(1).softmax(dim=1).view_as(found)
        seen = look * frame

        kept = out * memory.tanh()
        take, forget, new = (self.input(seen) + self.recurrent(kept)).chunk(3, dim=1)
        memory = forget.sigmoid() * memory + take.sigmoid() * new.tanh()
        scores = self.pooled(memory.mean(dim=(2, 3))) + self.coupling(seen.mean(dim=(2, 3)))
        row = scores.softmax(dim=1) @ self.pooled.weight
        out = self.output(torch.cat([row[:, :, None, None] * memory, kept], dim=1)).sigmoid()
        return look, (memory, out, place, shown)

    def _class_map(self, frame: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 1 h w"]:
        """How much of what the frame shows most is where."""
        row = self.find(frame.mean(dim=(2, 3))).softmax(dim=1) @ self.find.weight
        return torch.einsum("bd,bdhw->bhw", row, frame)[:, None]
