"""`kinema explain`: what the commands write and say, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tests.commands import Kinema
from tests.models.facts import MEAN, STD, TRAINING
from tests.videos import numbered_frames, write_video

from kinema.explain import palette
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import Preprocessing

STYLE = Path(__file__).parents[2] / "src" / "kinema" / "report" / "figures.css"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that nobody trained, a video, and weights of a 3D network."""
    place = tmp_path_factory.mktemp("explained")
    write_video(place / "clip.mp4", numbered_frames(16), fps=8)
    rgb = Preprocessing(num_frames=4, size_px=32, resize_px=32, fit="crop", mean=MEAN, std=STD)
    for name, model, arguments in (
        ("weights", "cnn_transformer", {"backbone": "tiny", "width": 16, "num_layers": 1, "num_heads": 2}),
        ("moving", "r2plus1d_18", {"num_blocks": 1}),
    ):
        config = WeightsConfig(
            model=model,
            arguments=arguments,
            heads={"verb": ("open", "close"), "noun": ("door", "box", "lid")},
            preprocessing={"rgb": rgb},
        )
        torch.manual_seed(0)
        built = build_model(config.model, config.arguments, heads=config.heads, inputs=config.inputs)
        save(place / name, built.state_dict(), config, TRAINING, card="")
    return place


def test_saliency(kinema: Kinema, place: Path) -> None:
    done = kinema("explain", "saliency", place / "weights", place / "clip.mp4", "--task", "noun", "--class", "box",
                  "--json", "-")  # fmt: skip
    assert done.code == 0, done.err
    facts = done.json
    assert (facts["task"], facts["label"], facts["layer"]) == ("noun", "box", "backbone.body.convolutions")
    assert facts["files"] == ["saliency/clip/noun_box.png", "saliency/clip/noun_box.mp4"]
    assert len(facts["times_s"]) == 4
    if facts["moments"] is not None:
        assert sum(facts["moments"]) == pytest.approx(1)
        assert set(facts["check"]) == {"whole", "without_marked", "without_random"}
    with Image.open(facts["files"][0]) as image:
        assert image.size[0] >= 500
    with av.open(facts["files"][1]) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name == "h264"
        assert sum(1 for _ in container.decode(stream)) == 4
        assert float(stream.average_rate or 0) == pytest.approx(2)


def test_attention(kinema: Kinema, place: Path) -> None:
    done = kinema("explain", "attention", place / "weights", place / "clip.mp4", "--out", "here", "--json", "-")
    assert done.code == 0, done.err
    (look,) = done.json["looks"]
    assert (look["who"], look["heads"]) == ("class token", 2)
    assert sum(look["frames"]) == pytest.approx(1)
    assert {file.name for file in Path("here").iterdir()} == set(done.json["files"])
    weights = np.load("here/weights.npz")["temporal.encoder.blocks.0.attention"]
    assert weights.shape == (1, 2, 5, 5)


def test_features_go_on_where_they_were(kinema: Kinema, place: Path) -> None:
    command = ["explain", "features", place / "weights", "--layers", "convolutions.1", "--steps", 2, "--size", 32]
    first = kinema(*command, "--channels", 2, "--json", "-")
    assert first.code == 0, first.err
    assert [row["unit"] for row in first.json] == [0, 31]
    made = Path("features/backbone.body.convolutions.1/31.png")
    before = made.stat().st_mtime_ns
    again = kinema(*command, "--units", "31,5", "--json", "-")
    assert [row["unit"] for row in again.json] == [31, 5]
    assert made.stat().st_mtime_ns == before
    assert again.json[0] == first.json[1]
    assert Path("features/features.png").is_file()
    assert set(json.loads(Path("features/features.json").read_text())) == {"pictures"}


def test_features_that_move(kinema: Kinema, place: Path) -> None:
    done = kinema("explain", "features", place / "moving", "--layers", "layer1", "--units", "3", "--steps", 2,
                  "--json", "-")  # fmt: skip
    assert done.code == 0, done.err
    (row,) = done.json
    assert row["file"] == "backbone.body.layer1/3.webp"
    with Image.open(Path("features") / row["file"]) as image:
        assert (getattr(image, "n_frames", 1), image.size) == (4, (32, 32))
    assert {"features.webp", "features.mp4", "features.png"} < {file.name for file in Path("features").iterdir()}


def test_features_of_a_backbone(kinema: Kinema, place: Path) -> None:
    torch.manual_seed(0)
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), "resnet.pt")
    done = kinema("explain", "features", "--backbone", "resnet18", "--weights", "resnet.pt", "--mean", "0.5", "--std",
                  "0.5,0.5,0.5", "--layers", "layer1", "--units", "1", "--steps", 1, "--size", 32)  # fmt: skip
    assert done.code == 0, done.err
    assert Path("features/body.layer1/1.png").is_file()


def test_layers(kinema: Kinema, place: Path) -> None:
    rows = {row["layer"]: row for row in kinema("explain", "layers", place / "weights", "--json", "-").json}
    assert rows["backbone.body.convolutions"]["saliency"] == "places"
    assert rows["temporal.encoder.blocks.0"]["saliency"] == "moments"
    assert rows["heads.linear.task_noun"]["saliency"] == "-"
    assert rows["backbone.body.convolutions.0"]["features"] == "still"
    assert rows["temporal.encoder"]["features"] == "moving"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("saliency W V --layer convolution", "--layer: no layer 'convolution'; did you mean"),
        ("saliency W V --layer linear.task_verb", "lies at no places or moments of the clip"),
        ("saliency W V --task nouns", "--task: no task 'nouns'; did you mean 'noun'? (known: verb, noun)"),
        ("saliency W V --class opne", "--class: verb has no class 'opne'; did you mean 'open'?"),
        ("saliency W V --start 9", "the clip 'clip.mp4' is annotated from 9"),
        ("saliency W none.mp4", "none.mp4"),
        ("saliency none V", "none: no such weights folder"),
        ("saliency W V --out W/config.json", "--out:"),
        ("attention M V", "this model has no attention over frames"),
        ("features", "give either WEIGHTS, a folder or a run, or --backbone NAME"),
        ("features W --backbone resnet18", "give either WEIGHTS"),
        ("features W --mean 0.5", "--mean: is for --backbone"),
        ("features W --layers convolutions.9", "--layers: no layer 'convolutions.9'; did you mean"),
        ("features W --layers convolutions.1 --units 64", "has units 0 to 31, not 64"),
        ("features W --layers convolutions.1 --units a", "--units: 'a' are not whole numbers"),
        ("features --backbone resnet18 --weights none.pt", "none.pt: no such file"),
        ("features --backbone resnet18 --std 0", "--std: give one number or three"),
        ("layers --backbone resent18", "no image network 'resent18'; did you mean 'resnet18'?"),
    ],
)
def test_one_line_for_every_mistake(kinema: Kinema, place: Path, command: str, said: str) -> None:
    given = {"W": place / "weights", "V": place / "clip.mp4", "M": place / "moving"}
    words = [str(given.get(word, word)).replace("W/", f"{place / 'weights'}/") for word in command.split()]
    assert said in kinema("explain", *words).error()


def test_colours_are_those_of_the_pages() -> None:
    light = STYLE.read_text(encoding="utf-8").partition("@media")[0]
    for name in ("GROUND", "PANEL", "INK", "SOFT", "RULE", "TRACK", "BLUE", "ORANGE", "AMBER"):
        assert f"--{name.lower()}: {getattr(palette, name)};" in light
    ramp = palette.coloured(np.linspace(0, 1, 32), palette.HEAT).astype(int).sum(axis=1)
    assert (np.diff(ramp) > 0).all()
