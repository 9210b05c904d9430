"""Video transformers of the package `transformers`: VideoMAE, TimeSformer, ViViT and V-JEPA 2.

Tong et al., "VideoMAE", NeurIPS 2022, https://arxiv.org/abs/2203.12602; Bertasius et al., "Is Space-Time Attention All
You Need for Video Understanding?", ICML 2021, https://arxiv.org/abs/2102.05095; Arnab et al., "ViViT", ICCV 2021,
https://arxiv.org/abs/2103.15691; Assran et al., "V-JEPA 2", 2025, https://arxiv.org/abs/2506.09985.
The networks are built from the arguments, without network access. `init.weights: published` loads `published` through
transformers; the arguments have to be of its size.
Deviations: dropout may be put before the classifier; V-JEPA 2 comes without its predictor, which classifies nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from kinema.models.clip_model import ClipModel
from kinema.models.configurations import Configuration
from kinema.models.layers.backbone import IMAGENET_MEAN, IMAGENET_STD
from kinema.models.layers.checks import at_least
from kinema.models.layers.video import ClipBackbone
from kinema.registry import register_model
from kinema.state_dict import reason
from kinema.types import ConfigError, DataError, Heads, Inputs, InputShape, UserError, only

_HALF = (0.5, 0.5, 0.5)
_CLASSES = {
    "videomae": ("VideoMAEConfig", "VideoMAEForVideoClassification"),
    "timesformer": ("TimesformerConfig", "TimesformerForVideoClassification"),
    "vivit": ("VivitConfig", "VivitForVideoClassification"),
    "vjepa2": ("VJEPA2Config", "VJEPA2ForVideoClassification"),
}
_PUBLISHED = {
    "videomae": "MCG-NJU/videomae-base-finetuned-kinetics",
    "timesformer": "facebook/timesformer-base-finetuned-k400",
    "vivit": "google/vivit-b-16x2-kinetics400",
    "vjepa2": "facebook/vjepa2-vitl-fpc16-256-ssv2",
}
_NORMALISATION = {
    "videomae": (IMAGENET_MEAN, IMAGENET_STD),
    "timesformer": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
    "vivit": (_HALF, _HALF),
    "vjepa2": (IMAGENET_MEAN, IMAGENET_STD),
}


def _configuration(name: str, num_classes: int, num_frames: int, size_px: int, **arguments: Any) -> Configuration:
    architecture = arguments["architecture"]
    return Configuration(
        name=name,
        arguments=arguments,
        classes={"action": num_classes},
        num_frames=num_frames,
        size_px=size_px,
        summary=f"The size of {_PUBLISHED[architecture]}.",
    )


CONFIGURATIONS = (
    _configuration("default", 400, 16, 224, architecture="videomae"),
    _configuration("timesformer", 400, 8, 224, architecture="timesformer"),
    _configuration("vivit", 400, 32, 224, architecture="vivit"),
    _configuration("vjepa2", 174, 16, 256, architecture="vjepa2", hidden_size=1024, num_layers=24, num_heads=16),
)


@register_model
def video_transformer(
    heads: Heads,
    inputs: Inputs,
    *,
    architecture: Literal["videomae", "timesformer", "vivit", "vjepa2"] = "videomae",
    hidden_size: int = 768,
    num_layers: int = 12,
    num_heads: int = 12,
    patch_size: int = 16,
    published: str | None = None,
    head_hidden: tuple[int, ...] = (),
    head_dropout: float | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """VideoMAE, TimeSformer, ViViT or V-JEPA 2, through the package transformers.

    Args:
        heads: Task -> class names.
        inputs: Stream -> shape.
        architecture: Which.
        hidden_size: Length of a token.
        num_layers: Encoder layers.
        num_heads: Heads of their attention.
        patch_size: Height and width of a token's patch, in pixels.
        published: Name, for `init.weights: published`, of what transformers loads; null: the best known one.
        head_hidden: Units of hidden layers in each task's classifier.
        head_dropout: Behind these; null: `dropout`.
        dropout: Before the classifier.

    Raises:
        ConfigError: transformers is not installed, or the sizes do not go together.
    """
    at_least(1, hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, patch_size=patch_size)
    if hidden_size % num_heads:
        raise ConfigError(f"model.num_heads: {hidden_size} features are not shared by {num_heads} heads")
    network = _network(
        architecture,
        only(inputs),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        patch_size=patch_size,
    )
    name = published or _PUBLISHED[architecture]
    mean, std = _NORMALISATION[architecture]
    clips = ClipBackbone(
        network,
        hidden_size,
        name=name,
        fetch=partial(_fetch, architecture, name),
        mean=mean,
        std=std,
        call=_features,
        classifier="classifier",
    )
    return ClipModel(clips, None, heads, dropout=dropout, hidden=head_hidden, hidden_dropout=head_dropout)


def _network(architecture: str, shape: InputShape, *, patch_size: int, **sizes: int) -> nn.Module:
    if shape.height_px != shape.width_px:
        raise ConfigError("clips.size_px: video transformers take square frames")
    if shape.height_px % patch_size:
        raise ConfigError(f"clips.size_px: has to be a multiple of model.patch_size, {patch_size}")
    config_name, class_name = _CLASSES[architecture]
    library = _transformers()
    if architecture == "vjepa2":
        config = library.VJEPA2Config(
            crop_size=shape.height_px, frames_per_clip=shape.num_frames, patch_size=patch_size, **sizes
        )
    else:
        patch = {"tubelet_size": [2, patch_size, patch_size]} if architecture == "vivit" else {"patch_size": patch_size}
        config = getattr(library, config_name)(
            image_size=shape.height_px,
            num_frames=shape.num_frames,
            intermediate_size=4 * sizes["hidden_size"],
            **patch,
            **sizes,
        )
    config._attn_implementation = "sdpa" if architecture != "timesformer" else "eager"
    network: Any = getattr(library, class_name)(config)
    network.classifier = nn.Identity()
    if architecture == "vjepa2":
        del network.vjepa2.predictor
    return network.train()


def _features(network: nn.Module, clips: Tensor) -> Tensor:
    return network(clips.transpose(1, 2)).logits


def _fetch(architecture: str, name: str) -> dict[str, Tensor]:
    library, (config_name, class_name) = _transformers(), _CLASSES[architecture]
    try:
        found = getattr(library, config_name).get_config_dict(name)[0].get("model_type")
        if found is None:
            raise OSError("there is no config.json that says what it is")
        if found != architecture:
            raise DataError(f"model.published: {name} is a network of type {found}, not {architecture}")
        # A repository may have no safetensors. What is pickled is read without running code in it.
        network, told = getattr(library, class_name).from_pretrained(
            name, weights_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - of many classes of its own
        raise OSError(reason(error)) from None
    random = {*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])}
    return {key: tensor for key, tensor in network.state_dict().items() if key not in random}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f'model.name: video_transformer needs transformers ({error}): pip install "kinema[transformers]"'
        ) from None
    return transformers
