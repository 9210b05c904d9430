"""On real clips and real weights: training on stored features is training on the frames."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from kinema.data.datasets.table import table
from kinema.data.device import to_model_input
from kinema.data.loading import ClipReader, EpochOrder, clip_loader
from kinema.data.usable import probe_splits
from kinema.models.build import build_model, initialise
from kinema.models.frame_model import FrameModel
from kinema.preparation.features import frozen_features, prepare_features
from kinema.sections import InitSection
from kinema.types import Preprocessing

WEIGHTS = Path("weights", "mobilenet_v2_imagenet_dequant.pt")
NUM_SAMPLE = 12
AS_IT_IS = (0.5, 0.5, 0.5)  # the file expects pixel / 127.5 - 1

Sample = Literal["few", "all"]


@cache
def reader(root: Path, sample: Sample) -> ClipReader:
    """UT-Interaction: some clips of every class with few frames, or all 120 clips as the recipe takes them."""
    dataset = table(root / "ut_interaction", csv="clips.csv")
    if sample == "few":
        every = sorted(dataset.splits["train"], key=lambda clip: (clip.labels["action"], clip.clip_id))
        dataset = replace(dataset, splits={"train": tuple(every[:: len(every) // NUM_SAMPLE][:NUM_SAMPLE])})
    clips, videos, _ = probe_splits(dataset, ["train"], workers=0)
    num_frames = 4 if sample == "few" else 20
    wanted = Preprocessing(
        num_frames=num_frames, size_px=224, resize_px=224, fit="squash", pixels="i420", mean=AS_IT_IS, std=AS_IT_IS
    )
    return ClipReader(clips["train"], videos, {"rgb": wanted}, augmentation=None, seed=0)


@cache
def model(root: Path, sample: Sample) -> FrameModel:
    torch.manual_seed(0)
    shape = reader(root, sample).preprocessing["rgb"].shape
    classes = tuple(map(str, range(6)))
    found = build_model(
        "cnn_conv1d",
        {"backbone": "mobilenet_v2", "channels": 64, "dropout": 0.0},
        heads={"action": classes},
        inputs={"rgb": shape},
    )
    assert isinstance(found, FrameModel)
    weights = str(root / WEIGHTS)
    initialise(found, InitSection(weights=weights, mean=AS_IT_IS, std=AS_IT_IS, freeze="backbone"))
    return found


@cache
def plain_features(root: Path, sample: Sample) -> Tensor:
    """By the network as the library builds it, from frames: nothing folded, nothing stored."""
    clips, backbone = reader(root, sample), model(root, sample).backbone
    order = EpochOrder(len(clips), batch_size=4, seed=None)
    found = []
    with torch.inference_mode(), clip_loader(clips, order, workers=0) as loader:
        for batch in loader:
            assert not batch.failures
            frames = to_model_input(batch.streams, clips.preprocessing)["rgb"]
            found.append(backbone.body(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))
    return torch.cat(found)


@cache
def trained(root: Path, sample: Sample) -> nn.Module:
    """Head and temporal module, trained on the plain features of the first set (or every other clip of few)."""
    network, features = model(root, sample), plain_features(root, sample)
    labels = torch.tensor([clip.labels["action"] for clip in reader(root, sample).clips])
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
    network.train()
    for _ in range(100):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(network.classify(features[::2])["action"], labels[::2]))
        optimiser.step()
    return network.eval()


def predictions(root: Path, sample: Sample, features: Tensor) -> Tensor:
    network = trained(root, sample)
    assert isinstance(network, FrameModel)
    with torch.inference_mode():
        return network.classify(features)["action"].argmax(dim=1)


@pytest.mark.parametrize("sample", ["few", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("stored_as", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3)])
def test_stored_features_are_those_of_the_frames(
    data_root: Path, tmp_path: Path, sample: Sample, stored_as: Literal["fp32", "fp16"], tolerance: float
) -> None:
    clips, backbone = reader(data_root, sample), model(data_root, sample).backbone
    assert len(clips) == (NUM_SAMPLE if sample == "few" else 120)
    done = prepare_features(
        backbone, [clips], tmp_path / "store", root=None, stored_as=stored_as, batch_size=8, workers=0
    )
    assert done.num_new == len(clips)
    stored = frozen_features(backbone, clips, batch_size=8, workers=0, folder=tmp_path / "store")
    assert stored is not None
    features = torch.from_numpy(stored.values()).float()
    plain = plain_features(data_root, sample)
    largest = plain.abs().amax(dim=(1, 2))
    assert float(largest.min()) > 1  # of features that are all nearly 0, nothing would follow
    assert float(((features - plain).abs().amax(dim=(1, 2)) / largest).max()) <= tolerance
    away = torch.linalg.vector_norm(features - plain, dim=(1, 2)) / torch.linalg.vector_norm(plain, dim=(1, 2))
    assert float(away.max()) <= tolerance
    expected = predictions(data_root, sample, plain)
    same = predictions(data_root, sample, features) == expected
    assert len(set(expected.tolist())) > 3  # it does tell classes apart
    assert float(same.float().mean()) >= 0.995
