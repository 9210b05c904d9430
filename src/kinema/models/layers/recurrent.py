"""Recurrent networks over the features of a clip's frames: RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least, share
from kinema.models.layers.stepping import State, mean_step

_KINDS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentPool(nn.Module):
    """Recurrent layers over the frames; their output, averaged over time or taken at the end.

    Args:
        kind: `rnn` (tanh), `gru` or `lstm`.
        num_inputs: Length of a frame's feature.
        hidden_size: Units per direction.
        num_layers: Stacked layers of this size.
        further_sizes: Units of further layers behind them.
        bidirectional: Read the clip in both directions.
        pool: `last`: the final state of each direction. `mean`: the mean of all outputs.
        projection: Length to which a frame's feature is projected first; None: it is not.
        dropout: Between layers.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self,
        kind: str,
        num_inputs: int,
        *,
        hidden_size: int,
        num_layers: int = 1,
        further_sizes: Sequence[int] = (),
        bidirectional: bool = False,
        pool: str = "last",
        projection: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, hidden_size=hidden_size, num_layers=num_layers, further_sizes=further_sizes, projection=projection)
        share(layer_dropout=dropout)
        self.projection = nn.Identity() if projection is None else nn.Linear(num_inputs, projection)
        self.directions = 2 if bidirectional else 1
        sizes = [hidden_size, *further_sizes]
        widths = [projection or num_inputs, *(self.directions * size for size in sizes)]
        self.layers = nn.ModuleList(
            _KINDS[kind](
                num_in,
                size,
                num_layers if index == 0 else 1,
                batch_first=True,
                bidirectional=bidirectional,
                dropout=dropout if index == 0 and num_layers > 1 else 0.0,
            )
            for index, (size, (num_in, _)) in enumerate(zip(sizes, pairwise(widths), strict=True))
        )
        self.dropout = nn.Dropout(dropout)
        self.pool = pool
        self.num_features = widths[-1]
        self.can_step = not bidirectional

    def outputs(self, features: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B E"]]:
        """The last layer's output at every frame, and its final state."""
        hidden = self.projection(features)
        for index, layer in enumerate(self.layers):
            hidden, final = layer(self.dropout(hidden) if index else hidden)
        final = final[0] if isinstance(final, tuple) else final
        return hidden, final[-self.directions :].transpose(0, 1).flatten(1)

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        outputs, final = self.outputs(features)
        return outputs.mean(dim=1) if self.pool == "mean" else final

    def step(self, frame: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        """Of a network that reads in one direction."""
        before, mean = ((None,) * len(self.layers), None) if state is None else state
        hidden = self.projection(frame).unsqueeze(1)
        states = []
        for layer, own in zip(self.layers, before, strict=True):
            hidden, own = layer(hidden, own)
            states.append(own)
        found = hidden.squeeze(1)
        if self.pool == "mean":
            found, mean = mean_step(found, mean)
        return found, (tuple(states), mean)
