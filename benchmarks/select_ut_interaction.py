"""Chooses settings of the ut_interaction recipes without a look at the set that they are tested on.

Inside one set (60 clips, 10 sequences), every candidate is trained ten times, each time without one sequence, and
measured on that sequence; three seeds. The candidate with the highest mean accuracy is chosen, among equal ones the
first. Frozen features are computed once and shared by all.

    python benchmarks/select_ut_interaction.py $DATA/ut_interaction $DATA/weights/mobilenet_v2_imagenet_dequant.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kinema import recipes
from kinema.config import resolve
from kinema.data.loading import ClipReader
from kinema.models.build import build_model
from kinema.models.frame_model import FrameModel
from kinema.preparation.features import frozen_features
from kinema.sections import Recipe
from kinema.training.losses import multi_task_loss
from kinema.training.optimisers import build_optimiser
from kinema.training.prepare import Prepared, prepare
from kinema.training.schedules import build_schedule

SEEDS = (0, 1, 2)
FOUR_VERSIONS = "clips.augmentation={views: 4, jitter: true, flip: 0.5, min_scale: 0.7, colour: 0.2}"
ONE_VERSION = "clips.augmentation={views: 1, jitter: false, flip: 0, min_scale: 1, colour: 0}"
_RATES = ("optim.lr=1e-3", "optim.lr=2e-3")
_NORMS = ("model.feature_norm=none", "model.feature_norm=batch", "model.feature_norm=clip")
CANDIDATES: dict[str, list[list[str]]] = {
    # Without its mean, a clip's mean over frames is zero: `clip` is none for this model.
    "frame_average": [[norm, views] for norm in _NORMS[:2] for views in (ONE_VERSION, FOUR_VERSIONS)],
    "cnn_lstm": [[norm, rate] for norm in _NORMS for rate in _RATES],
    "cnn_conv1d": [[norm, rate] for norm in _NORMS for rate in _RATES],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with clips.csv")
    parser.add_argument("weights", type=Path, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--models", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--sets", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    arguments = parser.parse_args()
    for name in arguments.models:
        for number in arguments.sets:
            results = []
            for candidate in CANDIDATES[name]:
                shares = cross_validate(name, candidate, number, arguments.root, arguments.weights)
                results.append((np.mean(shares), candidate))
                each = " ".join(f"{share:.3f}" for share in shares)
                print(f"{name}, set {number}: {np.mean(shares):.3f} ({each})  {' '.join(candidate)}", flush=True)
            _, chosen = max(results, key=lambda result: result[0])  # the first of equal ones
            print(f"{name}, set {number}: chosen {' '.join(chosen)}", flush=True)


def cross_validate(name: str, candidate: list[str], number: int, root: Path, weights: Path) -> list[float]:
    """Share of the clips of a set that are right when their own sequence was left out, for each seed."""
    recipe = resolve(
        recipes.read(f"ut_interaction/{name}"),
        [
            *[f"data.root={root}", f"data.where.set=[{number}]", "data.holdout={}", f"init.weights={weights}"],
            *["init.mean=[0.5,0.5,0.5]", "init.std=[0.5,0.5,0.5]"],  # which the file expects
            *candidate,
        ],
    )
    prepared = prepare(recipe)
    versions, plain = _features(prepared, augmented=True), _features(prepared, augmented=False)
    labels = torch.tensor([clip.labels["action"] for clip in prepared.clips["train"]])
    sequences = np.array([clip.attributes["sequence"] for clip in prepared.clips["train"]])
    shares = []
    for seed in SEEDS:
        right = 0
        for fold, sequence in enumerate(sorted(set(sequences.tolist()))):
            out = torch.from_numpy(sequences == sequence)
            model = _trained(recipe, prepared, versions[:, ~out], labels[~out], seed=1000 * seed + fold)
            with torch.no_grad():
                right += int((model.classify(plain[0, out])["action"].argmax(1) == labels[out]).sum())
        shares.append(right / len(labels))
    return shares


def _features(prepared: Prepared, *, augmented: bool) -> Tensor:
    """(views, clips, T, D)"""
    section = prepared.recipe.clips
    reader = ClipReader(
        prepared.clips["train"],
        prepared.videos,
        prepared.preprocessing,
        augmentation=section.augmentation if augmented else None,
        seed=prepared.recipe.trainer.seed,
    )
    assert isinstance(prepared.model, FrameModel)
    features = frozen_features(prepared.model.backbone, reader, batch_size=section.batch_size, workers=section.workers)
    assert features is not None
    versions = [features.values(view=view) for view in range(reader.num_views or 1)]
    return torch.from_numpy(np.stack(versions)).float()


def _trained(recipe: Recipe, prepared: Prepared, versions: Tensor, labels: Tensor, *, seed: int) -> FrameModel:
    """A model trained as `kinema train` trains on features."""
    torch.manual_seed(seed)
    model = build_model(
        recipe.model.name,
        recipe.model.arguments(),
        heads=prepared.dataset.classes,
        inputs={"rgb": prepared.preprocessing["rgb"].shape},
    )
    assert isinstance(model, FrameModel)
    model.backbone.freeze()  # its weights play no part here: the features are there already
    num_epochs, size = recipe.trainer.epochs, recipe.clips.batch_size
    optimiser = build_optimiser(model, recipe.optim, fused=True)
    schedule = build_schedule(optimiser, recipe.optim, steps_per_epoch=-(-len(labels) // size), num_epochs=num_epochs)
    model.train()
    for epoch in range(num_epochs):
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), size):
            batch = order[start : start + size]
            logits = model.classify(versions[epoch % len(versions), batch])
            loss = multi_task_loss(logits, {"action": labels[batch]}, recipe.task)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.optim.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
            optimiser.step()
            schedule.step()
    return model.eval()


if __name__ == "__main__":
    main()
