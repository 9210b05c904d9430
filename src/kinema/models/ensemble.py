"""The weighted average of what several models say.

Hansen and Salamon, "Neural Network Ensembles", TPAMI 1990, https://doi.org/10.1109/34.58871; averaging the scores of
networks that were trained alone is how the two streams of Simonyan and Zisserman, "Two-Stream Convolutional Networks
for Action Recognition in Videos", NIPS 2014, https://arxiv.org/abs/1406.2199, meet. `kinema ensemble` makes one of
weights folders, whose members may see a clip in different forms. Deviations: none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema.config import model_section
from kinema.models.build import build_model
from kinema.models.configurations import Configuration
from kinema.models.frame_model import FramePart
from kinema.models.streaming import OfFrames, frame_parts
from kinema.registry import register_model
from kinema.types import ConfigError, Heads, Inputs

CONFIGURATIONS = (
    Configuration(
        name="default",
        arguments={"members": ({"name": "frame_average"}, {"name": "cnn_conv1d"})},
        classes={"action": 101},
        num_frames=20,
        size_px=224,
        freeze="backbone",
        summary="A model that cannot see order beside one that can, with the classes of UCF101.",
    ),
)


_FRAMES = re.compile(r"rgb(_\d+)?")
"""Names of streams of frames; fields of motion come normalised."""


class Ensemble(nn.Module):
    """Members see the same clips, each in the form that it was trained on; their answers are averaged.

    Args:
        members: {stream: (B, T, C, H, W)} -> {task: (B, K)}.
        shares: How much each one counts; they need not sum to 1.
        average: `probabilities`, of which the logarithm is given, or `logits`.
        normalisations: Mean and standard deviation, per channel, that each member expects of pixels in 0..1, which this
            model then takes. None: all take what this model takes.
        streams: For each member, stream of its own -> stream of this model that holds it. None: they are the same.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        shares: Sequence[float],
        average: Literal["probabilities", "logits"],
        normalisations: Sequence[tuple[Sequence[float], Sequence[float]]] | None = None,
        streams: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.shares = [share / math.fsum(shares) for share in shares]
        self.average = average
        self.streams = streams
        self.normalises = normalisations is not None
        if self.normalises:  # what `kinema.models.build` then normalises pixels with
            self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        # They follow the model to its device and are no weights: the arguments tell them.
        pairs = torch.tensor([[list(mean), list(std)] for mean, std in normalisations or []])
        self.normalisation: Tensor
        self.register_buffer("normalisation", pairs, persistent=False)

    def forward(self, streams: Mapping[str, Float[Tensor, "B T C H W"]]) -> dict[str, Float[Tensor, "B _K"]]:
        return self._answer([member(self._given(number, streams)) for number, member in enumerate(self.members)])

    def _answer(self, said: Sequence[Mapping[str, Float[Tensor, "B _K"]]]) -> dict[str, Float[Tensor, "B _K"]]:
        """That of the members' logits."""
        return {task: self._averaged([logits[task] for logits in said]) for task in said[0]}

    def frame_parts(self, streams: Sequence[str]) -> dict[str, FramePart] | None:
        """Those of all members, which may see one stream normalised in different ways."""
        parts: dict[str, FramePart] = {}
        for number, member in enumerate(self.members):
            given = self._streams_of(number, streams)
            of_member = frame_parts(member, tuple(given))
            if of_member is None:
                return None
            for name, part in of_member.items():
                normalise = _chained(self._normalisation_of(number, part.stream), part.normalise)
                parts[f"{number}.{name}"] = replace(part, stream=given[part.stream], normalise=normalise)
        return parts

    def classify_parts(self, features: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B _K"]]:
        """Logits from the features of all members' parts."""
        said = []
        for number, member in enumerate(self.members):
            assert isinstance(member, OfFrames)
            prefix = f"{number}."
            own = {name.removeprefix(prefix): part for name, part in features.items() if name.startswith(prefix)}
            said.append(member.classify_parts(own))
        return self._answer(said)

    def _streams_of(self, number: int, streams: Sequence[str]) -> Mapping[str, str]:
        """Of a member: stream of its own -> stream of this model that holds it.

        Args:
            number: Of the member.
            streams: All that this model sees.
        """
        return {name: name for name in streams} if self.streams is None else self.streams[number]

    def _normalisation_of(self, number: int, own: str) -> Callable[[Tensor], Tensor] | None:
        """What a member does with a stream of its own before it sees it; None: nothing."""
        if not (self.normalises and _FRAMES.fullmatch(own)):
            return None

        def normalise(frames: Tensor) -> Tensor:
            mean, std = self.normalisation[number].unsqueeze(-1).unsqueeze(-1)
            return (frames - mean) * (1 / std)

        return normalise

    def _given(self, number: int, streams: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        given = {}
        for own, name in self._streams_of(number, tuple(streams)).items():
            normalise = self._normalisation_of(number, own)
            given[own] = streams[name] if normalise is None else normalise(streams[name])
        return given

    def _averaged(self, logits: Sequence[Tensor]) -> Tensor:
        if self.average == "logits":
            return torch.stack([share * each for share, each in zip(self.shares, logits, strict=True)]).sum(dim=0)
        # Their softmax is the averaged probabilities again. In fp32: far from the likely class half precision has none.
        weighted = [
            each.float().log_softmax(dim=1) + math.log(share) for share, each in zip(self.shares, logits, strict=True)
        ]
        return torch.logsumexp(torch.stack(weighted), dim=0)


def _chained(
    first: Callable[[Tensor], Tensor] | None, second: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor] | None:
    """One behind the other, where there are both."""
    if first is None or second is None:
        return first or second
    return lambda frames: second(first(frames))


@register_model
def ensemble(
    heads: Heads,
    inputs: Inputs,
    *,
    members: tuple[dict[str, Any], ...],
    shares: tuple[float, ...] = (),
    average: Literal["probabilities", "logits"] = "probabilities",
    means: tuple[tuple[float, float, float], ...] = (),
    stds: tuple[tuple[float, float, float], ...] = (),
    streams: tuple[dict[str, str], ...] = (),
) -> nn.Module:
    """The weighted average of what several models say.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        members: A `model:` section for each member, with its name and arguments.
        shares: How much each member counts, of their sum; []: all the same.
        average: What is averaged: `probabilities` or `logits`.
        means: Means that the members' weights expect of pixels, where they expect different ones. `kinema ensemble`
            writes this.
        stds: Like `means`: the standard deviations.
        streams: For each member, stream of its own -> stream of the ensemble, where members see a clip in other numbers
            of frames, sizes or cuts. `kinema ensemble` writes this.

    Raises:
        ConfigError: An argument is impossible, or a member cannot be built.
    """
    if not members:
        raise ConfigError("model.members: has to name one model at least")
    if shares and len(shares) != len(members):
        raise ConfigError(f"model.shares: {len(shares)} of them for {len(members)} members; give one for each")
    if any(not share > 0 for share in shares):
        raise ConfigError(f"model.shares: have to be above 0, got {', '.join(f'{share:g}' for share in shares)}")
    if {len(means), len(stds)} not in ({0}, {len(members)}):
        raise ConfigError(f"model.means: there have to be as many means and stds as members, {len(members)}, or none")
    if streams and len(streams) != len(members):
        raise ConfigError(f"model.streams: {len(streams)} of them for {len(members)} members; give one for each, or []")
    unknown = [name for each in streams for name in each.values() if name not in inputs]
    if unknown:
        raise ConfigError(
            f"model.streams: there is no stream {unknown[0]!r} (known: {', '.join(inputs)}); members that see clips "
            "differently are trained alone and made one by kinema ensemble"
        )
    given: list[Inputs] = [{own: inputs[name] for own, name in each.items()} for each in streams]
    given = given or [inputs] * len(members)
    sections = [model_section(member, key=f"model.members.{number}") for number, member in enumerate(members)]
    return Ensemble(
        [
            build_model(section.name, section.arguments(), heads=heads, inputs=each)
            for section, each in zip(sections, given, strict=True)
        ],
        shares=shares or [1.0] * len(members),
        average=average,
        normalisations=list(zip(means, stds, strict=True)) if means else None,
        streams=streams or None,
    )
