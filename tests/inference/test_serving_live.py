"""A camera over a WebSocket: what is answered, how much may wait, and what a strange message does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from tests.inference.served import QUICK, Brightness, jpeg, make_weights, message

import kinema
from kinema.inference.recogniser import Recogniser
from kinema.inference.serving.app import make_app
from kinema.inference.serving.live import Inbox, PictureError, read_picture
from kinema.inference.serving.service import Limits, Service, opened

HOST, LIVE = "http://127.0.0.1", "ws://127.0.0.1/live"
LIMITS = Limits(num_live=2, idle_s=1.5)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    return kinema.load(make_weights(tmp_path_factory.mktemp("weights") / "brightness"), device="cpu")


@pytest.fixture(scope="module")
def service(recogniser: Recogniser) -> Iterator[Service]:
    with opened(recogniser, name="brightness", live=QUICK, limits=LIMITS, follower=Brightness) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url=HOST) as client:
        yield client
    ends_s = time.monotonic() + 5
    while service.num_live and time.monotonic() < ends_s:
        time.sleep(0.01)
    assert service.num_live == 0


def ask(socket: WebSocketTestSession, time_ms: float, level: int) -> Any:
    socket.send_bytes(message(time_ms, jpeg(level)))
    return socket.receive_json()


def test_pictures_become_actions(client: TestClient) -> None:
    with client.websocket_connect(LIVE, headers={"Origin": HOST}) as socket:
        hello = socket.receive_json()
        assert hello["type"] == "hello"
        assert hello["picture_px"] == 80
        assert hello["tasks"] == {"action": 3, "place": 2}
        assert hello["how"] == "looks at how bright each picture is"
        began_ms = 5000.5
        answers = [ask(socket, began_ms + 100 * i, 10 if i < 12 else 240) for i in range(24)]
        socket.send_text("finish")
        last = socket.receive_json()
    assert [each["time_ms"] for each in answers] == [began_ms + 100 * i for i in range(24)]
    assert {each["type"] for each in answers} == {"answer"}
    assert {each["began_ms"] for each in answers} == {began_ms}
    assert [each["whole"] for each in answers[:4]] == [False, False, True, True]
    assert answers[0]["current"] is None
    first = answers[5]
    assert first["tasks"]["action"][0]["class"] == "dark"
    assert first["tasks"]["action"][0]["probability"] == pytest.approx(0.9)
    assert first["known"]
    assert first["score"] is None
    assert first["current"]["label"] == "dark inside"
    assert first["current"]["labels"] == {"action": "dark", "place": "inside"}
    assert answers[-1]["current"]["label"] == "bright inside"
    ended = [segment for each in [*answers, last] for segment in each["ended"]]
    assert last["type"] == "finished"
    assert [each["label"] for each in ended] == ["dark inside", "bright inside"]
    assert ended[0]["stop_s"] == pytest.approx(1.2, abs=0.15)
    assert ended[1]["stop_s"] == pytest.approx(2.4, abs=0.15)
    assert ended[0]["confidence"] == pytest.approx(0.9 * 0.8, abs=0.01)
    assert all(each["seconds"] >= 0 for each in answers)
    assert all(each["dropped"] == 0 for each in answers)


def test_a_gap_begins_the_stream_anew(client: TestClient) -> None:
    with client.websocket_connect(LIVE) as socket:
        socket.receive_json()
        for i in range(8):
            answer = ask(socket, 100 * i, 10)
        assert answer["current"]["label"] == "dark inside"
        after = ask(socket, 60_000, 10)
        assert [each["label"] for each in after["ended"]] == ["dark inside"]
        assert after["current"] is None
        assert not after["whole"]


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        (b"", "8 bytes"),
        (b"12345678", "8 bytes"),
        (message(0, b"no JPEG at all"), "not a JPEG"),
        (message(0, jpeg(9)[:200]), "not a JPEG"),
        (message(float("nan"), jpeg(9)), "time"),
        (message(float("inf"), jpeg(9)), "time"),
        (message(0, jpeg(9, height_px=13)), "thirteen"),
        ("stop", "finish"),
        ("", "finish"),
    ],
)
def test_what_is_no_picture_is_said_and_the_camera_goes_on(
    client: TestClient, service: Service, sent: bytes | str, word: str
) -> None:
    before = service.metrics.malformed._value.get()
    with client.websocket_connect(LIVE) as socket:
        socket.receive_json()
        ask(socket, -100, 100)
        if isinstance(sent, str):
            socket.send_text(sent)
        else:
            socket.send_bytes(sent)
        answer = socket.receive_json()
        assert answer["type"] == "error"
        assert word in answer["error"]
        assert ask(socket, 100, 100)["type"] == "answer"
    assert service.metrics.malformed._value.get() == before + 1


def test_pictures_have_to_come_in_the_order_of_time(client: TestClient) -> None:
    with client.websocket_connect(LIVE) as socket:
        socket.receive_json()
        ask(socket, 100, 10)
        assert "not newer" in ask(socket, 100, 10)["error"]
        assert "not newer" in ask(socket, 50, 10)["error"]
        assert ask(socket, 150, 10)["type"] == "answer"
        socket.send_text("finish")
        assert socket.receive_json()["type"] == "finished"
        assert "not newer" in ask(socket, 50, 10)["error"]


def test_a_picture_of_too_many_pixels() -> None:
    assert read_picture(message(0, jpeg(9, height_px=2048, width_px=2048)))[1].shape == (2048, 2048, 3)
    with pytest.raises(PictureError, match="2048 x 2049"):
        read_picture(message(0, jpeg(9, height_px=2049, width_px=2048)))


def test_a_picture_keeps_its_pixels() -> None:
    time_ms, image = read_picture(message(1234.5625, jpeg(77)))
    assert time_ms == 1234.5625
    assert image.shape == (36, 48, 3)
    assert image.dtype == np.uint8
    assert abs(int(image[0, 0, 0]) - 77) <= 1


def test_the_newest_picture_is_answered(service: Service, client: TestClient) -> None:
    goes_on = threading.Event()
    with client.websocket_connect(LIVE) as socket:
        socket.receive_json()
        service.thread.submit(lambda: goes_on.wait(20), kind="live")
        for i in range(10):
            socket.send_bytes(message(100 * i, jpeg(10)))
        time.sleep(0.5)
        goes_on.set()
        answers = [socket.receive_json()]
        while answers[-1]["time_ms"] < 900:
            answers.append(socket.receive_json())
        assert [each["time_ms"] for each in answers] == [0, 900]
        assert answers[-1]["dropped"] == 8


def test_no_more_cameras_than_there_is_room_for(client: TestClient) -> None:
    with client.websocket_connect(LIVE) as first, client.websocket_connect(LIVE) as second:
        first.receive_json()
        second.receive_json()
        assert client.get("/health").json()["live"] == 2
        with client.websocket_connect(LIVE) as third, pytest.raises(WebSocketDisconnect) as closed:
            third.receive_json()
        assert closed.value.code == 1013
        assert closed.value.reason == "2 cameras are watched already; try again later"
        assert ask(first, 0, 10)["type"] == "answer"
        assert ask(second, 0, 10)["type"] == "answer"


def test_a_camera_that_sends_nothing_makes_room(client: TestClient, service: Service) -> None:
    with client.websocket_connect(LIVE) as socket:
        socket.receive_json()
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
        assert closed.value.code == 4408


def test_pages_of_elsewhere_watch_nothing(client: TestClient) -> None:
    for headers in ({"Origin": "http://example.org"}, {"Origin": "null"}, {"Host": "example.org"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(LIVE, headers=headers):
            pass


def test_a_camera_needs_the_token(recogniser: Recogniser) -> None:
    with (
        opened(recogniser, name="secret", token="s\u00e9cret", follower=Brightness) as service,
        TestClient(make_app(service), base_url=HOST) as client,
    ):
        for query in ("", "?token=wrong"):
            with client.websocket_connect(f"{LIVE}{query}") as socket, pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 4401
        with client.websocket_connect(f"{LIVE}?token=s%C3%A9cret") as socket:
            assert socket.receive_json()["type"] == "hello"


def test_a_mistake_of_ours_ends_one_camera_and_is_logged(
    service: Service, client: TestClient, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("by itself")

    with client.websocket_connect(LIVE) as socket:
        socket.receive_json()
        with monkeypatch.context() as patch:
            patch.setattr(Brightness, "see", fails)
            socket.send_bytes(message(0, jpeg(1)))
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
    assert closed.value.code == 1011
    assert "by itself" in caplog.text
    with client.websocket_connect(LIVE) as socket:
        socket.receive_json()
        assert ask(socket, 0, 10)["type"] == "answer"


def test_all_pictures_are_kept_where_only_answers_are_dear(
    service: Service, client: TestClient, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Brightness, "is_dear", True)
    goes_on = threading.Event()
    with client.websocket_connect(LIVE) as socket:
        assert socket.receive_json()["ahead"] == 16
        service.thread.submit(lambda: goes_on.wait(20), kind="live")
        socket.send_bytes(message(0, jpeg(10)))
        time.sleep(0.3)
        for i in range(1, 20):
            socket.send_bytes(b"no picture" if i == 15 else message(50 * i, jpeg(10)))
        time.sleep(0.5)
        before = service.metrics.malformed._value.get()
        goes_on.set()
        answers = [socket.receive_json(), socket.receive_json()]
    assert [each["time_ms"] for each in answers] == [0, 950]
    assert answers[1]["dropped"] == 3
    assert [each["num_seen"] for each in answers] == [1, 15]
    assert answers[1]["whole"]  # the others were seen too
    assert service.metrics.malformed._value.get() == before + 1


def test_words_take_the_place_of_pictures_that_wait() -> None:
    async def check() -> None:
        inbox = Inbox()
        assert inbox.put(b"1") == 0
        assert inbox.put(b"2") == 1
        assert inbox.put("finish") == 1
        inbox.put(b"3")
        assert await inbox.take() == "finish"
        assert await inbox.take() == [b"3"]
        assert inbox.num_dropped == 2
        inbox.put(b"4")
        inbox.end()
        assert await inbox.take() is None

    asyncio.run(check())
