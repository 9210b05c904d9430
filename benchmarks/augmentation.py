"""What each change of a training clip costs on the CPU: milliseconds a clip of 16 x 112, beside those without any.

    python benchmarks/augmentation.py [--json FILE] [--rounds N] [--quick]

Frames as they are stored (I420) become a model's input, fourteen clips at a time, with one operation switched on in
all of them; of RandAugment each clip has another of its fourteen operations. A row has clips a second with everything
that a clip needs, and `ms_more`: milliseconds a clip that the operation adds to the first row's.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from harness import Report, Run, in_turn, options, row, timed
from kinema.data.changes import RAND_OPERATIONS, Changes, draw_changes
from kinema.data.device import to_model_input
from kinema.sections import Augmentation
from kinema.types import Preprocessing

CLIPS = len(RAND_OPERATIONS)
NOTHING = "no change"

Extra = Mapping[str, Any]


def main() -> None:
    given = options(__doc__, rounds=7)
    report = Report(name="augmentation", options=given)
    size_px, num_frames = (32, 4) if given.quick else (112, 16)
    wanted = Preprocessing(
        num_frames=num_frames,
        size_px=size_px,
        resize_px=size_px,
        fit="crop",
        pixels="i420",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    generator = torch.Generator().manual_seed(0)
    shape = (CLIPS, num_frames, *wanted.frame_shape)
    frames = torch.randint(16, 236, shape, generator=generator, dtype=torch.uint8)
    contenders: dict[str, Run] = {name: partial(seconds, frames, wanted, extra) for name, extra in jobs().items()}
    found = in_turn(contenders, given.rounds)
    plain_ms = 1000 * statistics.median(found[NOTHING].sum(axis=1)) / CLIPS
    for name, of_job in found.items():
        ms = 1000 * statistics.median(of_job.sum(axis=1)) / CLIPS
        more = {"ms_per_clip": round(ms, 2), "ms_more": round(ms - plain_ms, 2)}
        report.rows.append(row(name, of_job, None, "", amount=CLIPS, **more))
    report.notes.append(f"{CLIPS} clips of {num_frames} x {size_px}, {torch.get_num_threads()} threads")
    for facts in report.rows:
        report.notes.append(f"{facts['job']}: {facts['ms_more']:.2f} ms a clip beside {plain_ms:.2f}")
    report.finish()


def jobs() -> dict[str, Extra]:
    """Name -> what is given beside frames."""
    rand_augment = Augmentation(rand_augment=len(RAND_OPERATIONS))
    drawn = [draw_changes(rand_augment, seed=0, view=0, index=index) for index in range(50)]
    magnitudes = dict(operation for one in drawn if one is not None for operation in one.operations)
    one_each = [Changes(operations=((name, magnitudes[name]),)) for name in RAND_OPERATIONS]
    aggressive = Augmentation.model_validate("aggressive")
    as_drawn = [draw_changes(aggressive, seed=0, view=0, index=index) for index in range(CLIPS)]
    factors = torch.tensor([[1.2, 0.8, 1.1]]).expand(CLIPS, 3)
    found: dict[str, Extra] = {
        NOTHING: {},
        "flip": {"flip": torch.ones(CLIPS, dtype=torch.bool)},
        "brightness, contrast, saturation": {"colour": factors},
        "rotation": {"changes": [Changes(rotation_deg=12.0)] * CLIPS},
        "hue": {"changes": [Changes(hue=0.05)] * CLIPS},
        "grey": {"changes": [Changes(grey=True)] * CLIPS},
        "blur of 1 px": {"changes": [Changes(blur_px=1.0)] * CLIPS},
        "blur of 2 px": {"changes": [Changes(blur_px=2.0)] * CLIPS},
        "erasing": {"changes": [Changes(erased=(0.2, 0.3, 0.4, 0.4))] * CLIPS},
        "RandAugment, an operation": {"changes": one_each},
        "aggressive, as drawn": {"colour": factors, "changes": as_drawn},
    }
    return found


def seconds(frames: torch.Tensor, wanted: Preprocessing, extra: Extra) -> list[float]:
    return [timed(lambda: to_model_input({"rgb": frames}, {"rgb": wanted}, **extra))]


if __name__ == "__main__":
    main()
