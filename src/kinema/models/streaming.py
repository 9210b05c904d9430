"""How a model can follow a stream of frames, by what it is made of.

`state`: every frame is seen once and forgotten, since the temporal module goes on from a state of constant size.
`window`: every frame passes the backbone once, and the temporal module sees the features of the last frames again.
Neither: the network sees whole clips, so that frames are computed again for every answer.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from kinema.models.frame_model import FrameModel
from kinema.models.layers.conv_lstm import ConvLSTMPool, MapConvolution
from kinema.models.layers.lsta import LSTAPool
from kinema.models.layers.recurrent import RecurrentPool
from kinema.models.layers.temporal import EachFrame, MaxPool, MeanPool

Streaming = Literal["state", "window"]

# A mean and a maximum over time go on from what they were, as recurrent networks do.
_GO_ON = (MeanPool, MaxPool, EachFrame, MapConvolution, ConvLSTMPool, LSTAPool)


def streaming(model: nn.Module) -> Streaming | None:
    """`state`, `window`, or None: it sees whole clips."""
    if not isinstance(model, FrameModel):
        return None
    if model.centred:  # the mean that is taken away is that of the window
        return "window"
    temporal = model.temporal
    is_recurrent = isinstance(temporal, RecurrentPool) and temporal.directions == 1
    return "state" if is_recurrent or isinstance(temporal, _GO_ON) else "window"
