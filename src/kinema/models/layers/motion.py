"""What moves, from the maps of neighbouring frames: their differences, and how they correlate.

Differences: Jiang et al., "STM: SpatioTemporal and Motion Encoding for Action Recognition", ICCV 2019, and Li et al.,
"TEA: Temporal Excitation and Aggregation for Action Recognition", CVPR 2020. Correlation: Wang et al., "Video Modeling
with Correlation Networks", CVPR 2020, and Kwon et al., "MotionSqueeze: Neural Motion Feature Learning for Video
Understanding", ECCV 2020. Both are behind a network here, where the papers put them into its blocks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from kinema.models.layers.checks import at_least


class DifferencePool(nn.Module):
    """Maps of frames, changed by how they differ from those of the next frame; then the mean over frame and clip.

    Args:
        num_inputs: Channels of a frame's map.
        kind: `motion`: differences of features are added to the maps (STM). `excitation`: their averages over the frame
            say by how much each channel counts more, or less (TEA).
        reduction: Differences are of one in so many channels, to which maps are squeezed.

    Raises:
        ConfigError: An argument is impossible.
    """

    takes_maps = True

    def __init__(self, num_inputs: int, *, kind: str, reduction: int) -> None:
        super().__init__()
        at_least(1, reduction=reduction)
        width = max(1, num_inputs // reduction)
        self.kind = kind
        self.squeeze = nn.Sequential(nn.Conv2d(num_inputs, width, 1, bias=False), nn.BatchNorm2d(width))
        self.transform = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.sign = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.expand = nn.Sequential(nn.Conv2d(width, num_inputs, 1, bias=False), nn.BatchNorm2d(num_inputs))
        self.num_features = num_inputs

    def changes(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B T E h w"]:
        """How each frame differs from the next; the last one from none: 0."""
        squeezed = self.squeeze(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        later: Tensor = self.transform(squeezed[:, 1:].flatten(0, 1)).unflatten(0, (len(maps), maps.shape[1] - 1))
        return pad(later - squeezed[:, :-1], (0, 0, 0, 0, 0, 0, 0, 1))

    def forward(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B D"]:
        # Behind the last maps no layer follows that would tell what comes from what goes, before all is averaged.
        changes = self.sign(self.changes(maps).flatten(0, 1))
        if self.kind == "excitation":
            counts = 2 * self.expand(changes.mean(dim=(2, 3), keepdim=True)).sigmoid() - 1
            moving = maps.flatten(0, 1) * (1 + counts)
        else:
            moving = torch.relu(maps.flatten(0, 1) + self.expand(changes))
        return moving.mean(dim=(2, 3)).reshape(*maps.shape[:2], -1).mean(dim=1)


class CorrelationPool(nn.Module):
    """Maps of frames, and where in the next frame what they show is found again; then the mean over frame and clip.

    Args:
        num_inputs: Channels of a frame's map.
        channels: To which maps are squeezed to be compared, and of what is made of the comparison.
        radius: How far away, in places of the map, it is looked for.

    Raises:
        ConfigError: An argument is impossible.
    """

    takes_maps = True

    def __init__(self, num_inputs: int, *, channels: int, radius: int) -> None:
        super().__init__()
        at_least(1, channels=channels, radius=radius)
        self.radius = radius
        self.squeeze = nn.Sequential(nn.Conv2d(num_inputs, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.describe = nn.Sequential(
            nn.Conv2d((2 * radius + 1) ** 2, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, num_inputs, 1, bias=False),
            nn.BatchNorm2d(num_inputs),
        )
        self.num_features = num_inputs

    def correlation(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B T P h w"]:
        """The cosine between each place and each of its surroundings in the next frame, row by row; outside of the
        frame it is 0. The last frame is compared with itself."""
        flat = normalize(self.squeeze(maps.flatten(0, 1)), dim=1)
        squeezed = flat.reshape(*maps.shape[:2], *flat.shape[1:])
        later = torch.cat([squeezed[:, 1:], squeezed[:, -1:]], dim=1)
        around, (height, width) = pad(later, (self.radius,) * 4), maps.shape[3:]
        size = range(2 * self.radius + 1)
        found = [
            (squeezed * around[..., y : y + height, x : x + width]).sum(dim=2) for y in size for x in size
        ]  # one by one: at once they would take as many times the memory
        return torch.stack(found, dim=2)

    def forward(self, maps: Float[Tensor, "B T D h w"]) -> Float[Tensor, "B D"]:
        moving = torch.relu(maps.flatten(0, 1) + self.describe(self.correlation(maps).flatten(0, 1)))
        return moving.mean(dim=(2, 3)).reshape(*maps.shape[:2], -1).mean(dim=1)
