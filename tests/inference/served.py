"""A service for tests: weights of a tiny model, a follower whose answers are known, and a server in a thread."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from tests.models.facts import MEAN, STD, TRAINING

from kinema.inference.following import Follower
from kinema.inference.live_settings import LiveSection
from kinema.inference.live_types import Answer, Picture
from kinema.inference.recogniser import Recogniser
from kinema.inference.serving.app import make_app
from kinema.inference.serving.server import Place, listen
from kinema.inference.serving.service import Service
from kinema.models.build import build_model
from kinema.models.weights import WeightsConfig, save
from kinema.types import DataError, Heads, Preprocessing

RGB = Preprocessing(num_frames=4, size_px=32, resize_px=40, fit="crop", mean=MEAN, std=STD)
HEADS: Heads = {"action": ("dark", "grey", "bright"), "place": ("inside", "outside")}

QUICK = LiveSection(smoothing_s=0, min_duration_s=0.2, cool_down_s=0.2)


def make_weights(folder: Path, *, heads: Heads = HEADS) -> Path:
    """A weights folder of a model that was never trained."""
    config = WeightsConfig(model="cnn_lstm", arguments={"backbone": "tiny"}, heads=heads, preprocessing={"rgb": RGB})
    torch.manual_seed(0)
    model = build_model(config.model, config.arguments, heads=heads, inputs=config.inputs)
    save(folder, model.state_dict(), config, TRAINING, card="")
    return folder


class Brightness(Follower):
    """Says how bright a picture is: below a third dark, above two thirds bright. Of the first two it is not sure."""

    def __init__(self, recogniser: Recogniser, settings: LiveSection | None = None) -> None:
        self.recogniser = recogniser
        self.settings = settings or LiveSection()
        self.num_seen = 0

    @property
    def how(self) -> str:
        return "looks at how bright each picture is"

    @property
    def is_dear(self) -> bool:
        return False

    def see(self, pictures: Sequence[Picture], *, only_newest: bool = False) -> list[Answer]:
        answers = []
        for picture in pictures:
            assert isinstance(picture.image, np.ndarray)
            level = picture.image.mean() / 255
            if picture.image.shape[0] == 13:
                raise DataError("thirteen rows are too much for anybody")
            self.num_seen += 1
            action = np.full(3, 0.05, np.float32)
            action[min(2, int(3 * level))] = 0.9
            place = np.array([0.8, 0.2], np.float32)
            probabilities = {"action": action, "place": place}
            answers.append(Answer(time_s=picture.stop_s, probabilities=probabilities, is_whole=self.num_seen > 2))
        return answers[-1:] if only_newest else answers

    def reset(self) -> None:
        self.num_seen = 0


def jpeg(level: int, *, width_px: int = 48, height_px: int = 36) -> bytes:
    """A picture of one brightness."""
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), (level, level, level)).save(buffer, "JPEG")
    return buffer.getvalue()


def message(time_ms: float, picture: bytes) -> bytes:
    """As a page sends it."""
    return struct.pack("<d", time_ms) + picture


def levels(
    *stretches: tuple[int, float], fps: int = 15, width_px: int = 160, height_px: int = 120
) -> NDArray[np.uint8]:
    """Frames of stretches, each of one brightness for so many seconds."""
    frames = [np.full((round(duration_s * fps), 120, 160, 3), level, np.uint8) for level, duration_s in stretches]
    return np.concatenate(frames)


@contextmanager
def in_thread(service: Service, *, place: Place | None = None) -> Iterator[str]:
    """The service on a port of this machine, as long as the block lasts; the address of its page."""
    place = place or Place(port=0)
    listener = listen(place)
    config = uvicorn.Config(
        make_app(service, is_local=place.is_local),
        http="h11",
        ws="websockets-sansio",
        ws_max_size=service.limits.picture_bytes,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield place.url(listener.getsockname()[1], service.token)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()
