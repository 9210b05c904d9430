"""What moves, from maps of neighbouring frames."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kinema.models.layers.motion import CorrelationPool, DifferencePool
from kinema.types import ConfigError

POOLS: dict[str, Callable[[], nn.Module]] = {
    "excitation": lambda: DifferencePool(16, kind="excitation", reduction=2),
    "motion": lambda: DifferencePool(16, kind="motion", reduction=2),
    "correlation": lambda: CorrelationPool(16, channels=8, radius=1),
}


def clip(num_frames: int = 5, grid: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(2, num_frames, 16, grid, grid, generator=torch.Generator().manual_seed(seed))


def test_a_difference_is_what_a_frame_has_more_than_the_one_before() -> None:
    """With a transform that changes nothing, and one squeezed channel that is the first."""
    pool = DifferencePool(16, kind="motion", reduction=16).eval()
    maps = clip()
    with torch.no_grad():
        convolution = pool.squeeze[0]
        assert isinstance(convolution, nn.Conv2d)
        convolution.weight.zero_()
        convolution.weight[0, 0] = 1
        pool.transform.weight.zero_()
        pool.transform.weight[:, :, 1, 1] = 1
        found = pool.changes(maps)
    expected = torch.zeros(2, 5, 1, 6, 6)
    expected[:, :-1, 0] = maps[:, 1:, 0] - maps[:, :-1, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dy", [-1, 0, 2])
@pytest.mark.parametrize("dx", [-2, 1])
def test_what_has_moved_is_found_where_it_went(dy: int, dx: int) -> None:
    """A frame that is the one before, shifted: the highest correlation is at the shift, and is 1."""
    torch.manual_seed(0)
    pool = CorrelationPool(16, channels=16, radius=2).eval()
    start = clip(1, grid=9)[:, 0]
    maps = torch.stack([start, start.roll((dy, dx), dims=(2, 3))], dim=1)
    with torch.no_grad():
        found = pool.correlation(maps)
    inside = found[:, 0, :, 2:-2, 2:-2]
    place = (dy + 2) * 5 + dx + 2
    assert (inside.argmax(dim=1) == place).all()
    torch.testing.assert_close(inside[:, place], torch.ones_like(inside[:, place]))
    still = found[:, 1, 12]
    torch.testing.assert_close(still, torch.ones_like(still))  # the last frame is compared with itself
    assert (found[:, 0, 0, 0] == 0).all()  # above the frame there is nothing


@pytest.mark.parametrize("name", POOLS)
def test_one_frame_is_enough(name: str) -> None:
    pool = POOLS[name]().eval()
    assert pool(clip(1)).shape == (2, 16)


def moving(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """A spot that goes to the right, and the same clips backwards; where it begins is drawn."""
    generator = torch.Generator().manual_seed(seed)
    spot = torch.randn(num, 16, generator=generator)
    maps = 0.1 * torch.rand(num, 5, 16, 7, 7, generator=generator)
    rows = torch.randint(7, (num,), generator=generator)
    for step in range(5):
        maps[torch.arange(num), step, :, rows, step + 1] += spot.abs()
    return torch.cat([maps, maps.flip(1)]), torch.arange(2).repeat_interleave(num)


@pytest.mark.parametrize("name", POOLS)
def test_directions_are_told_apart(name: str) -> None:
    """Of what is the same on average, whichever way it goes."""
    torch.manual_seed(0)
    model = nn.Sequential(POOLS[name](), nn.Linear(16, 2))
    maps, labels = moving(48, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(maps), labels))
        optimiser.step()
    maps, labels = moving(64, seed=2)
    with torch.inference_mode():
        assert float((model.eval()(maps).argmax(dim=1) == labels).float().mean()) >= 0.95


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.reduction: has to be at least 1"):
        DifferencePool(16, kind="motion", reduction=0)
    with pytest.raises(ConfigError, match=r"model\.radius: has to be at least 1"):
        CorrelationPool(16, channels=8, radius=0)
