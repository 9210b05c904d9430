"""An ensemble says the weighted average of what its members say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinema.models.build import build_model, initialise
from kinema.models.ensemble import Ensemble
from kinema.models.layers.backbone import IMAGENET_MEAN
from kinema.models.runtime import faster
from kinema.sections import InitSection
from kinema.types import ConfigError, Heads, InputShape

HEADS: Heads = {"verb": ("open", "close", "push"), "noun": ("door", "jar")}
INPUTS = {"rgb": InputShape(num_frames=4, channels=3, height_px=32, width_px=32)}
MEMBERS = ({"name": "cnn_lstm", "backbone": "tiny"}, {"name": "conv3d"}, {"name": "frame_average", "backbone": "tiny"})


class Says(nn.Module):
    """Answers with these logits, whatever it sees; remembers what it saw."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        self.saw = streams["rgb"]
        return {"action": self.logits.expand(len(streams["rgb"]), -1)}


def clips(num: int = 2) -> dict[str, Tensor]:
    return {"rgb": torch.rand(num, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def build(*members: dict[str, Any], **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build_model("ensemble", {"members": members, **arguments}, heads=HEADS, inputs=INPUTS)


def test_probabilities_are_averaged_as_by_hand() -> None:
    # Softmax of (0, log 3) is (1/4, 3/4), of (log 4, 0) is (4/5, 1/5).
    members = Says(0.0, torch.tensor(3.0).log().item()), Says(torch.tensor(4.0).log().item(), 0.0)
    said = Ensemble(members, shares=(3, 1), average="probabilities")(clips())["action"]
    expected = torch.tensor([0.75 * 0.25 + 0.25 * 0.8, 0.75 * 0.75 + 0.25 * 0.2])
    torch.testing.assert_close(said.exp(), expected.expand(2, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(said.softmax(dim=1), expected.expand(2, 2), rtol=0, atol=1e-6)


def test_logits_are_averaged_as_by_hand() -> None:
    said = Ensemble((Says(1.0, -2.0), Says(5.0, 4.0)), shares=(0.6, 0.4), average="logits")(clips())["action"]
    torch.testing.assert_close(said, torch.tensor([[2.6, 0.4]]).expand(2, 2), rtol=0, atol=1e-6)


def test_what_one_member_rules_out_stays_a_number() -> None:
    said = Ensemble((Says(200.0, -200.0), Says(150.0, -150.0)), shares=(1, 1), average="probabilities")(clips())
    assert torch.isfinite(said["action"]).all()
    torch.testing.assert_close(said["action"][0, 1].item(), -300.0 + torch.tensor(0.5).log().item())


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_members_of_every_kind(average: str) -> None:
    model = build(*MEMBERS, average=average, shares=(0.5, 0.3, 0.2)).eval()
    batch = clips(3)
    with torch.inference_mode():
        said, each = model(batch), [member(batch) for member in model.members]
        for task in HEADS:
            values = [logits[task].double() for logits in each]
            if average == "probabilities":
                values = [value.softmax(dim=1) for value in values]
            expected = 0.5 * values[0] + 0.3 * values[1] + 0.2 * values[2]
            found = said[task].double().exp() if average == "probabilities" else said[task].double()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_order_of_members_that_count_alike_is_all_the_same() -> None:
    model, turned = build(*MEMBERS).eval(), build(*reversed(MEMBERS)).eval()
    for member, same in zip(model.members, reversed(turned.members), strict=True):
        same.load_state_dict(member.state_dict())
    with torch.inference_mode():
        said, again = model(clips()), turned(clips())
    for task in HEADS:
        torch.testing.assert_close(said[task], again[task], rtol=0, atol=1e-6)


def test_each_member_gets_pixels_as_it_expects_them() -> None:
    members = Says(0.0), Says(0.0)
    normalisations = [((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)), ((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))]
    Ensemble(members, shares=(1, 1), average="logits", normalisations=normalisations)(clips())
    for member, (mean, std) in zip(members, normalisations, strict=True):
        expected = (clips()["rgb"] - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(member.saw, expected, rtol=0, atol=1e-6)


def test_folded_it_says_the_same() -> None:
    model = build(*MEMBERS, means=[(0.5,) * 3] * 3, stds=[(0.2,) * 3] * 3)
    model(clips(4))  # so that batch norm's statistics are not those of a new model
    quick = faster(model, inputs=clips())
    with torch.inference_mode():
        expected, found = model.eval()(clips()), quick(clips())
    for task in HEADS:
        torch.testing.assert_close(found[task], expected[task], rtol=0, atol=1e-4)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in quick.modules()) == 0


def test_an_ensemble_may_be_a_member() -> None:
    inner = {"name": "ensemble", "members": [MEMBERS[0], MEMBERS[2]], "average": "logits"}
    assert build(inner, MEMBERS[1])(clips())["noun"].shape == (2, 2)


def test_pixels_that_members_normalise_are_given_as_they_are() -> None:
    model = build(MEMBERS[0], means=[(0.5,) * 3], stds=[(0.2,) * 3])
    done = initialise(model, InitSection())
    assert (done.mean, done.std) == ((0, 0, 0), (1, 1, 1))
    with pytest.raises(ConfigError, match=r"^init\.weights: this model normalises pixels itself"):
        initialise(model, InitSection(weights="published"))
    assert initialise(build(MEMBERS[0]), InitSection()).mean == IMAGENET_MEAN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": ()}, "model.members: has to name one model at least"),
        ({"members": ({"backbone": "tiny"},)}, "model.members.0.name: missing; give the name of a model"),
        ({"members": ({"name": "cnn_lstn"},)}, "model.members.0.name: there is no model 'cnn_lstn'; did you mean"),
        ({"members": (MEMBERS[1], {"name": "conv3d", "pading": "same"})}, "model.members.1.pading: unknown key; did"),
        ({"members": ({"name": "conv3d", "dropout": "much"},)}, "model.members.0.dropout: expected a number, got"),
        ({"members": MEMBERS, "shares": (1, 1)}, "model.shares: 2 of them for 3 members; give one for each"),
        ({"members": MEMBERS, "shares": (1, 1, 0)}, "model.shares: have to be above 0, got 1, 1, 0"),
        ({"members": MEMBERS, "shares": (1, 1, float("nan"))}, "model.shares: have to be above 0"),
        ({"members": MEMBERS, "means": [(0.5,) * 3]}, "model.means: there have to be as many means and stds as"),
    ],
)
def test_what_cannot_be_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model("ensemble", arguments, heads=HEADS, inputs=INPUTS)
    assert str(caught.value).startswith(message)
