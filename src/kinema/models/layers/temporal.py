"""Temporal modules: the features of a clip's frames, (B, T, D), become one feature of the clip, (B, num_features)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.models.layers.checks import at_least
from kinema.models.layers.recurrent import RecurrentPool
from kinema.models.layers.stepping import State, Steps, can_step, max_step, mean_step
from kinema.models.layers.transformer import TransformerPool
from kinema.types import ConfigError


class MeanPool(nn.Module):
    """The mean over frames. It cannot see their order."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    can_step = True

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        return features.mean(dim=1)

    def step(self, frame: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B D"], State]:
        return mean_step(frame, state)


class MaxPool(nn.Module):
    """The largest value of every feature over frames. It cannot see their order."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    can_step = True

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        return features.amax(dim=1)

    def step(self, frame: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B D"], State]:
        return max_step(frame, state)


class EachFrame(nn.Module):
    """Nothing over time: the answer are the frames' own features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    can_step = True

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return features

    def step(self, frame: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B 1 D"], State]:
        """The frame alone; the heads that take them go on from a state of their own."""
        return frame.unsqueeze(1), state


class ConvNet1D(nn.Module):
    """Residual convolutions over time, then the mean over frames. Takes any number of frames.

    A clip is an image of height 1 here: convolutions of images have a form for tensors whose channels come last in
    memory, as those of features do, which train faster on a CPU than those of sequences.

    Args:
        num_inputs: Length of a frame's feature.
        channels: Filters of every convolution.
        num_blocks: Blocks of two convolutions.
        kernel_size: Frames that one convolution sees; odd.
        causal: They are a frame and those before it, in place of as many before as behind.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self, num_inputs: int, *, channels: int, num_blocks: int, kernel_size: int, causal: bool = False
    ) -> None:
        super().__init__()
        at_least(1, channels=channels)
        at_least(0, num_blocks=num_blocks)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"model.kernel_size: has to be odd and at least 1, got {kernel_size}")
        self.project = nn.Sequential(nn.Conv2d(num_inputs, channels, 1), nn.BatchNorm2d(channels))
        self.blocks = nn.ModuleList(_Block(channels, kernel_size, causal=causal) for _ in range(num_blocks))
        self.num_features = channels
        self.can_step = causal

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        hidden = self.project(features.transpose(1, 2).unsqueeze(2))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.mean(dim=(2, 3))

    def step(self, frame: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        """Of a causal network."""
        before, mean = ((None,) * len(self.blocks), None) if state is None else state
        hidden = self.project(frame[:, :, None, None])
        states = []
        for block, own in zip(self.blocks, before, strict=True):
            assert isinstance(block, _Block)
            hidden, own = block.step(hidden, own)
            states.append(own)
        pooled, mean = mean_step(hidden.flatten(1), mean)
        return pooled, (tuple(states), mean)


class CausalConvolution(nn.Conv2d):
    """Sees a frame and those before it; before the first there are zeros. The weights are called as those of any."""

    def __init__(self, num_inputs: int, channels: int, kernel_size: int) -> None:
        super().__init__(num_inputs, channels, (1, kernel_size), bias=False)

    def forward(self, input: Float[Tensor, "B D 1 T"]) -> Float[Tensor, "B E 1 T"]:  # noqa: A002 - torch calls it so
        return super().forward(nn.functional.pad(input, (self.kernel_size[1] - 1, 0)))

    def step(self, frame: Float[Tensor, "B D 1 1"], state: State) -> tuple[Float[Tensor, "B E 1 1"], State]:
        """The state are the frames before, as many as it sees."""
        num = self.kernel_size[1] - 1
        before = frame.new_zeros(*frame.shape[:3], num) if state is None else state
        seen = torch.cat([before, frame], dim=3)
        return super().forward(seen), seen[..., 1:]


class _Block(nn.Module):
    def __init__(self, channels: int, kernel_size: int, *, causal: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _over_time(channels, kernel_size, causal=causal),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.01),
            _over_time(channels, kernel_size, causal=causal),
            nn.BatchNorm2d(channels),
        )
        self.to(memory_format=torch.channels_last)
        self.activation = nn.LeakyReLU(0.01)

    def forward(self, hidden: Float[Tensor, "B E 1 T"]) -> Float[Tensor, "B E 1 T"]:
        return self.activation(hidden + self.layers(hidden))

    def step(self, hidden: Float[Tensor, "B E 1 1"], state: State) -> tuple[Float[Tensor, "B E 1 1"], State]:
        states = [None] * 2 if state is None else list(state)
        found, number = hidden, 0
        for layer in self.layers:
            if isinstance(layer, CausalConvolution):
                found, states[number] = layer.step(found, states[number])
                number += 1
            else:
                found = layer(found)
        return self.activation(hidden + found), tuple(states)


def _over_time(channels: int, kernel_size: int, *, causal: bool) -> nn.Conv2d:
    if causal:
        return CausalConvolution(channels, channels, kernel_size)
    return nn.Conv2d(channels, channels, (1, kernel_size), padding="same", bias=False)


class ConvStack1D(nn.Module):
    """Convolutions over time without padding, until one step is left.

    Each block is two of them with batch norm, and a leaky ReLU; the last convolution takes all steps that are left.

    Args:
        num_inputs: Length of a frame's feature.
        num_steps: A clip of another number of frames is averaged, or its frames repeated, to so many steps.
        channels: Filters in the blocks.
        num_blocks: Each takes away twice `kernel_size - 1` steps.
        kernel_size: Of the convolutions in the blocks.
        out_channels: Filters of the last convolution.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self, num_inputs: int, *, num_steps: int, channels: int, num_blocks: int, kernel_size: int, out_channels: int
    ) -> None:
        super().__init__()
        at_least(1, num_steps=num_steps, channels=channels, kernel_size=kernel_size, out_channels=out_channels)
        at_least(0, num_blocks=num_blocks)
        left = num_steps - 2 * num_blocks * (kernel_size - 1)
        if left < 1:
            raise ConfigError(
                f"model.num_steps: {num_blocks} blocks take away {num_steps - left} steps, so it has to be at least "
                f"{num_steps - left + 1}, got {num_steps}"
            )
        self.resample = nn.AdaptiveAvgPool1d(num_steps)
        layers: list[nn.Module] = []
        width = num_inputs
        for _ in range(num_blocks):
            for num_in in (width, channels):
                layers += [nn.Conv1d(num_in, channels, kernel_size), nn.BatchNorm1d(channels)]
            layers.append(nn.LeakyReLU(0.01))
            width = channels
        layers += [nn.Conv1d(width, out_channels, left), nn.BatchNorm1d(out_channels), nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers)
        self.num_features = out_channels

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        return self.layers(self.resample(features.transpose(1, 2))).flatten(1)


class StatisticsPool(nn.Module):
    """Statistics over time, side by side: cheap, and hard to beat on little data.

    Args:
        num_inputs: Length of a frame's feature.
        deviation: The standard deviation over frames.
        difference: The mean absolute difference of frames: how much changes, not in which direction.
        segments: Into how many equal parts the clip is cut, of each of which there is the mean. With 1, which is the
            mean over all frames, order cannot be seen.
        difference_step: How many frames apart those are whose difference is taken. Of a clip that is too short, its
            first and last frame.
        difference_segments: Equal parts of the clip, of each of which there is the mean difference.

    Raises:
        ConfigError: An argument is impossible.
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        deviation: bool,
        difference: bool,
        segments: int,
        difference_step: int = 1,
        difference_segments: int = 1,
    ) -> None:
        super().__init__()
        at_least(1, segments=segments, difference_step=difference_step, difference_segments=difference_segments)
        if not difference and (difference_step, difference_segments) != (1, 1):
            name = "difference_step" if difference_step != 1 else "difference_segments"
            raise ConfigError(f"model.{name}: there are no differences with model.difference=false; leave it out")
        self.deviation, self.difference, self.difference_step = deviation, difference, difference_step
        self.segments = nn.AdaptiveAvgPool1d(segments)
        self.difference_segments = nn.AdaptiveAvgPool1d(difference_segments)
        self.num_features = num_inputs * (segments + deviation + difference * difference_segments)
        self.can_step = (segments, difference_step, difference_segments) == (1, 1, 1)

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        found = [_means(features, self.segments)]
        if self.deviation:
            # The gradient of a root is infinite at 0, which a clip of one frame has.
            found.append((features.var(dim=1, correction=0) + 1e-6).sqrt())
        if self.difference:
            # One frame differs from itself by nothing.
            step = min(self.difference_step, features.shape[1] - 1)
            changes = (features[:, step:] - features[:, : features.shape[1] - step]).abs()
            if self.difference_segments.output_size == 1:
                # As it has always been, to the bit: pooling adds in another order.
                found.append(changes.sum(dim=1) / changes.shape[1])
            else:
                found.append(_means(changes, self.difference_segments))
        return torch.cat(found, dim=1)

    def step(self, frame: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        """Of a clip that is not cut into parts. Squares are added up as Welford did (Technometrics, 1962)."""
        nothing = torch.zeros_like(frame)
        if state is None:
            state = frame, (nothing, 0), nothing, None
        before, (old, num), squares, changes = state
        mean, means = mean_step(frame, (old, num))
        squares = squares + (frame - old) * (frame - mean)
        found = [mean]
        if self.deviation:
            found.append((squares / (num + 1) + 1e-6).sqrt())
        if self.difference and num == 0:
            found.append(nothing)
        elif self.difference:
            change, changes = mean_step((frame - before).abs(), changes)
            found.append(change)
        return torch.cat(found, dim=1), (frame, means, squares, changes)


def _means(values: Float[Tensor, "B T D"], parts: nn.AdaptiveAvgPool1d) -> Float[Tensor, "B E"]:
    """Of each part of a clip, one part behind the other."""
    return parts(values.transpose(1, 2)).transpose(1, 2).flatten(1)


class Projected(nn.Module):
    """A temporal module over features that are projected first.

    Args:
        num_inputs: Length of a frame's feature.
        pool: Takes the projected features.
        width: To which they are projected; None: they are not.
    """

    def __init__(self, num_inputs: int, pool: nn.Module, *, width: int | None) -> None:
        super().__init__()
        at_least(1, width=width)
        self.project = nn.Identity() if width is None else nn.Linear(num_inputs, width)
        self.pool = pool
        self.num_features = pool.num_features

    @property
    def can_step(self) -> bool:
        return can_step(self.pool)

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        return self.pool(self.project(features))

    def step(self, frame: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        assert isinstance(self.pool, Steps)
        return self.pool.step(self.project(frame), state)


class HybridPool(nn.Module):
    """A bidirectional LSTM beside a Transformer; a linear layer joins what they answer.

    Args:
        num_inputs: Length of a frame's feature.
        lstm: Takes the projected features.
        transformer: Takes them too.
        width: To which features are projected, and of what comes out.
    """

    def __init__(self, num_inputs: int, *, lstm: RecurrentPool, transformer: TransformerPool, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(num_inputs, width)
        self.lstm, self.transformer = lstm, transformer
        self.join = nn.Linear(lstm.num_features + transformer.num_features, width)
        self.num_features = width

    def forward(self, features: Float[Tensor, "B T D"]) -> Float[Tensor, "B E"]:
        projected = self.project(features)
        return self.join(torch.cat([self.lstm(projected), self.transformer(projected)], dim=1))
