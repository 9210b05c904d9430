"""Clips that are made of two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kinema.sections import TaskSection
from kinema.training.losses import Mixed, multi_task_loss
from kinema.training.mixing import mix

CLIPS = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 2, 10, 20)
LABELS = {"action": torch.tensor([0, 1, 2, 3])}


def test_mixup_is_a_mean_of_two_clips_and_their_labels() -> None:
    inputs, mixed = mix({"rgb": CLIPS}, LABELS, mixup=0.4, cutmix=0, rng=np.random.default_rng(1))
    assert mixed is not None
    second = mixed.labels["action"].float()
    expected = mixed.share * torch.arange(4.0) + (1 - mixed.share) * second
    assert sorted(second.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(inputs["rgb"], expected[:, None, None, None, None].expand_as(CLIPS))
    features = torch.arange(4.0)[:, None, None].expand(4, 3, 5)
    of_features, same = mix({"features": features}, LABELS, mixup=0.4, cutmix=0, rng=np.random.default_rng(1))
    assert same is not None
    assert same.share == mixed.share
    torch.testing.assert_close(of_features["features"][:, 0, 0], expected)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_cuts_the_same_place_out_of_all_frames(seed: int) -> None:
    inputs, mixed = mix({"rgb": CLIPS}, LABELS, mixup=0, cutmix=1.0, rng=np.random.default_rng(seed))
    assert mixed is not None
    found = inputs["rgb"]
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    own = found[:, 0, 0] == torch.arange(4.0)[:, None, None]
    other = found[:, 0, 0] == mixed.labels["action"].float()[:, None, None]
    assert bool((own | other).all())
    for clip in range(4):
        if mixed.labels["action"][clip] != clip:
            assert float(own[clip].float().mean()) == pytest.approx(mixed.share)
    assert torch.equal(CLIPS[:, 0, 0, 0, 0], torch.arange(4.0))  # the batch itself is left alone


def test_both_take_turns_and_shares_vary() -> None:
    shares, cuts = set(), 0
    for seed in range(40):
        inputs, mixed = mix({"rgb": CLIPS}, LABELS, mixup=0.4, cutmix=1.0, rng=np.random.default_rng(seed))
        assert mixed is not None
        shares.add(mixed.share)
        cuts += bool((inputs["rgb"] == inputs["rgb"].round()).all())
    assert len(shares) > 30
    assert 10 < cuts < 30


def test_a_single_clip_is_left_as_it_is() -> None:
    inputs, mixed = mix(
        {"rgb": CLIPS[:1]}, {"action": torch.tensor([0])}, mixup=1.0, cutmix=0, rng=np.random.default_rng(0)
    )
    assert mixed is None
    assert torch.equal(inputs["rgb"], CLIPS[:1])


def test_the_loss_of_mixed_clips_is_that_of_soft_targets() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    other = {"action": torch.tensor([3, 3, 1, 0])}
    found = multi_task_loss(
        {"action": logits}, LABELS, TaskSection(label_smoothing=0.2), mixed=Mixed(labels=other, share=0.7)
    )
    target = 0.7 * F.one_hot(LABELS["action"], 5) + 0.3 * F.one_hot(other["action"], 5)
    expected = -((0.8 * target + 0.2 / 5) * torch.log_softmax(logits, 1)).sum(1).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
