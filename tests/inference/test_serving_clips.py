"""`POST /predict`, `GET /health`, `/metrics`: what is answered, what is refused, and that nothing is left."""

from __future__ import annotations

import asyncio
import math
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.inference.served import HEADS, QUICK, Brightness, make_weights
from tests.videos import numbered_frames, write_video

import kinema
from kinema.data.decoding import probe
from kinema.data.machine import MachineError
from kinema.inference.recogniser import Prediction, Recogniser
from kinema.inference.serving import reading
from kinema.inference.serving.app import _clip_answer, make_app
from kinema.inference.serving.model_thread import ModelThread
from kinema.inference.serving.reading import ClipReader, ClipRequest
from kinema.inference.serving.service import Limits, Service, opened
from kinema.inference.serving.uploads import clean_name, place_for_clip
from kinema.models.weights import Rejection
from kinema.types import DataError

LIMITS = Limits(upload_bytes=200_000, timeout_s=20, num_waiting=1)
HOST = "http://127.0.0.1"


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    return kinema.load(make_weights(tmp_path_factory.mktemp("weights") / "brightness"), device="cpu")


@pytest.fixture(scope="module")
def service(recogniser: Recogniser) -> Iterator[Service]:
    with opened(recogniser, name="brightness", live=QUICK, limits=LIMITS, follower=Brightness) as service:
        yield service
    assert not service.folder.exists()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url=HOST, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(autouse=True)
def _nothing_left(service: Service) -> Iterator[None]:
    yield
    assert not list(service.folder.iterdir())
    assert service.num_clips == 0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, numbered_frames(16, width_px=80, height_px=60), fps=8)


def error(answer: Any) -> str:
    """The one line of an error."""
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert list(found) == ["error"]
    assert "\n" not in found["error"]
    assert "Traceback" not in found["error"]
    assert "kinema-serve-" not in found["error"]  # the name of our own file
    return str(found["error"])


def test_a_clip_is_answered_as_predict_answers_it(client: TestClient, recogniser: Recogniser, video: Path) -> None:
    expected = recogniser.predict(video)
    sent = {"video": ("my clip.mp4", video.read_bytes(), "video/mp4")}
    answer = client.post("/predict", files=sent)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["video"] == "my clip.mp4"
    assert found["known"]
    assert found["score"] is None
    assert found["damaged"] is False
    assert 0 < found["seconds"] < 20
    for task, names in HEADS.items():
        best = found["tasks"][task]
        assert [each["class"] for each in best] == list(expected.probabilities[task])
        assert len(best) == len(names)
        for each in best:
            assert each["probability"] == pytest.approx(expected.probabilities[task][each["class"]], abs=1e-6)
    plain = client.post("/predict", content=video.read_bytes(), headers={"Content-Type": "application/octet-stream"})
    assert plain.json()["tasks"] == found["tasks"]
    assert plain.json()["video"] == "clip"


def test_a_clip_of_nothing_that_is_known(recogniser: Recogniser, video: Path) -> None:
    """Also where its score is no number that JSON has."""
    for method, threshold in (("max_probability", 1.1), ("energy", math.inf)):
        kept = Rejection(
            method=method, threshold=threshold, recall=0.95, background=None, split="validation", clip_ids=[]
        )
        strict = Recogniser(recogniser.model, recogniser.config, rejection=kept)
        with (
            opened(strict, name="strict", follower=Brightness) as service,
            TestClient(make_app(service), base_url=HOST) as client,
        ):
            found = client.post("/predict", files={"video": ("c.mp4", video.read_bytes())}).json()
            assert found["known"] is False
            assert isinstance(found["score"], float)
            assert found["tasks"]
    unlike = Prediction(probabilities={"action": {"dark": 1.0}}, score=-math.inf, known=False)
    assert _clip_answer("c.mp4", unlike, 5, 0.1).score is None


def test_a_part_of_a_clip_and_few_classes(client: TestClient, recogniser: Recogniser, video: Path) -> None:
    expected = recogniser.predict(video, start_s=0.5, stop_s=1.25)
    answer = client.post(
        "/predict", params={"start_s": 0.5, "stop_s": 1.25, "top": 1}, files={"video": ("c.mp4", video.read_bytes())}
    )
    for task, best in answer.json()["tasks"].items():
        assert [each["class"] for each in best] == list(expected.probabilities[task])[:1]
        assert best[0]["probability"] == pytest.approx(next(iter(expected.probabilities[task].values())), abs=1e-6)


def test_a_still_image(client: TestClient, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 48), (200, 20, 20)).save(tmp_path / "still.png")
    answer = client.post("/predict", files={"video": ("still.png", (tmp_path / "still.png").read_bytes())})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"start_s": "-1"}, "start_s"),
        ({"start_s": "nan"}, "start_s"),
        ({"start_s": "inf"}, "start_s"),
        ({"stop_s": "0"}, "stop_s"),
        ({"start_s": "1", "stop_s": "0.5"}, "stop_s"),
        ({"top": "0"}, "top"),
        ({"top": "x"}, "top"),
        ({"start_s": "100"}, "clip.mp4"),
    ],
)
def test_impossible_parameters(client: TestClient, video: Path, query: dict[str, str], word: str) -> None:
    answer = client.post("/predict", params=query, files={"video": ("clip.mp4", video.read_bytes())})
    assert answer.status_code == 422
    assert word in error(answer)


def test_what_is_no_clip(client: TestClient, video: Path) -> None:
    def send(name: str, content: bytes) -> str:
        answer = client.post("/predict", files={"video": (name, content)})
        assert answer.status_code == 422, answer.text
        return error(answer)

    content = video.read_bytes()
    assert send("notes.txt", b"no video at all\n" * 100).startswith("notes.txt: not a video that FFmpeg can read")
    assert send("noise.mp4", bytes(range(256)) * 40).startswith("noise.mp4: ")
    assert send("half.mp4", content[: len(content) // 2]).startswith("half.mp4: ")
    assert send("still.png", content).startswith("still.png: ")
    assert send("empty.mp4", b"") == "empty.mp4: empty (0 bytes)"
    assert send("../../etc/passwd", b"x").startswith("passwd: ")


def test_a_real_clip_cut_short(client: TestClient, data_root: Path) -> None:
    for name in ("kinetics_like_h264.mp4", "testsrc2_mpeg4.avi", "testsrc2_vp8.webm"):
        content = (data_root / "edge_cases" / name).read_bytes()[:150_000]
        answer = client.post("/predict", files={"video": (name, content[: len(content) * 2 // 3])})
        assert answer.status_code == 422, name
        assert error(answer).startswith(f"{name}: ")


def test_a_playlist_opens_no_other_file(client: TestClient, video: Path, tmp_path: Path) -> None:
    """FFmpeg would read the files that a playlist names, of whoever runs the service."""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nfile://{video}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile '{video}'\n"
    for name, content in (("a.m3u8", hls), ("a.mp4", hls), ("a.ffconcat", concat), ("b.mp4", concat)):
        answer = client.post("/predict", files={"video": (name, content.encode())})
        assert answer.status_code == 422
        assert "not a video that FFmpeg can read" in error(answer)


def test_a_list_of_files_is_no_clip_even_where_ffmpeg_would_open_it(
    recogniser: Recogniser, video: Path, tmp_path: Path
) -> None:
    shutil.copy(video, tmp_path / "other.mp4")
    listed = tmp_path / "list.mp4"
    listed.write_text("ffconcat version 1.0\nfile other.mp4\n")
    assert len(probe(listed).times_s) == 16  # so it would
    with pytest.raises(DataError, match="not a video that FFmpeg can read"):
        reading.read(ClipRequest(path=listed), recogniser.config.preprocessing)


def test_bodies_that_are_no_forms(client: TestClient, video: Path) -> None:
    content = video.read_bytes()
    kinds = {
        "text/plain": 415,
        "application/json": 415,
        "multipart/form-data": 400,
        "multipart/form-data; boundary=x": 400,
        f"multipart/form-data; boundary={'x' * 257}": 400,
    }
    for kind, status in kinds.items():
        answer = client.post("/predict", content=content, headers={"Content-Type": kind})
        assert (kind, answer.status_code) == (kind, status)
        error(answer)
    assert client.post("/predict").status_code == 415
    assert client.post("/predict", data={"video": "text"}, files={"other": ("a", b"b")}).status_code == 422
    broken = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n' + content
    answer = client.post("/predict", content=broken, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 400
    assert "breaks off" in error(answer)
    empty = client.post("/predict", content=b"", headers={"Content-Type": "application/octet-stream"})
    assert empty.status_code == 422


def test_too_large_a_clip(client: TestClient, service: Service) -> None:
    for size in (LIMITS.upload_bytes + 1, 10 * LIMITS.upload_bytes):
        answer = client.post("/predict", files={"video": ("large.mp4", bytes(size))})
        assert answer.status_code == 413
        assert error(answer) == "the clip is too large; at most 200 kB are taken"

    # Without saying beforehand how much will come.
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 * LIMITS.upload_bytes:
            assert not any(path.stat().st_size > LIMITS.upload_bytes for path in service.folder.rglob("*"))
            sent += 50_000
            yield bytes(50_000)

    plain = client.post("/predict", content=endless(), headers={"Content-Type": "video/mp4"})
    assert plain.status_code == 413


def test_a_full_queue_is_said(service: Service, client: TestClient, video: Path, monkeypatch: Any) -> None:
    goes_on = threading.Event()
    real = service.reader.read

    def slow(request: ClipRequest, *, timeout_s: float) -> Any:
        goes_on.wait(20)
        return real(request, timeout_s=timeout_s)

    monkeypatch.setattr(service.reader, "read", slow)
    sent = {"video": ("c.mp4", video.read_bytes())}
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, "/predict", files=sent) for _ in range(2)]
        wait_until(lambda: service.num_clips == 2)
        assert client.get("/health").json()["waiting"] == 2
        refused = client.post("/predict", files=sent)
        assert refused.status_code == 429
        assert error(refused) == "too many clips are waiting; try again later"
        assert int(refused.headers["retry-after"]) >= 1
        goes_on.set()
        assert [each.result().status_code for each in waiting] == [200, 200]
    assert client.post("/predict", files=sent).status_code == 200


def test_a_clip_that_takes_too_long(recogniser: Recogniser, video: Path, monkeypatch: Any) -> None:
    sent = {"video": ("c.mp4", video.read_bytes())}
    limits = Limits(timeout_s=0.5)
    with (
        opened(recogniser, name="slow", limits=limits, follower=Brightness) as service,
        TestClient(make_app(service), base_url=HOST) as client,
    ):
        stuck = threading.Event()
        service.thread.submit(lambda: stuck.wait(10), kind="clip")
        # The reader of a service that has just begun may itself need longer than that.
        service.reader.read(ClipRequest(path=video), timeout_s=60)
        answer = client.post("/predict", files=sent)
        assert answer.status_code == 504
        assert error(answer) == "it took longer than 0.5 s"
        assert not list(service.folder.iterdir())
        stuck.set()
        wait_until(lambda: client.post("/predict", files=sent).status_code == 200)


def test_an_upload_that_does_not_end(recogniser: Recogniser) -> None:
    with opened(recogniser, name="slow", limits=Limits(timeout_s=0.5), follower=Brightness) as service:
        app = make_app(service)
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.2)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            status.extend([message["status"]] if message["type"] == "http.response.start" else [])

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"video/mp4")],
        }
        asyncio.run(app(scope, receive, send))
        assert status == [408]
        assert not list(service.folder.iterdir())


def test_who_waits_when_the_service_ends_is_told(recogniser: Recogniser) -> None:
    with opened(recogniser, name="ending", follower=Brightness) as service:
        app = make_app(service)
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x", "more_body": False}

        async def send(message: Any) -> None:
            status.extend([message["status"]] if message["type"] == "http.response.start" else [])

        async def end() -> None:
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/predict",
                "query_string": b"",
                "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"video/mp4")],
            }
            async with service._turn:  # another is worked on
                task = asyncio.create_task(app(scope, receive, send))
                while not list(service.folder.glob("*/clip")):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                task.cancel()
                await task

        asyncio.run(end())
        assert status == [503]
        assert not list(service.folder.iterdir())


def test_health_and_metrics(client: TestClient, video: Path) -> None:
    health = client.get("/health")
    assert health.status_code == 200
    found = health.json()
    assert found["status"] == "ok"
    assert found["model"] == "brightness"
    assert found["tasks"] == {"action": 3, "place": 2}
    assert found["uptime_s"] > 0
    before = client.get("/metrics").text
    client.post("/predict", files={"video": ("c.mp4", video.read_bytes())})
    client.post("/predict", files={"video": ("c.mp4", b"nothing")})
    after = client.get("/metrics").text
    for line in ('path="/predict",status="200"', 'path="/predict",status="422"'):
        name = f'kinema_requests_total{{method="POST",{line}}}'
        assert value(after, name) == value(before, name) + 1
    assert value(after, 'kinema_request_seconds_count{path="/predict"}') >= 2
    assert value(after, 'kinema_model_seconds_count{kind="clip"}') > value(
        before, 'kinema_model_seconds_count{kind="clip"}'
    )
    assert value(after, "kinema_queue_limit") == 2
    assert value(after, "kinema_queue_depth") == 0
    assert "kinema_live_sessions 0.0" in after
    assert value(after, "process_resident_memory_bytes") > 10**7


def test_all_errors_are_json_of_one_line(client: TestClient) -> None:
    assert error(client.get("/nothing")) == "Not Found"
    assert error(client.get("/predict")) == "Method Not Allowed"
    assert client.get("/docs").status_code == 404  # it would load a script from elsewhere


def test_answers_carry_what_a_browser_has_to_heed(client: TestClient) -> None:
    for path in ("/", "/health", "/page/page.js", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "camera=(self)" in headers["permissions-policy"]
    page = client.get("/").text
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere
    assert " style=" not in page
    assert "<script>" not in page


def test_only_this_machines_names_are_answered(client: TestClient, video: Path) -> None:
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    for host in ("example.org", "127.0.0.1.example.org", "<b>", "", "[1]", "[::::]:80"):
        assert client.get("/health", headers={"Host": host}).status_code == 400
    sent = {"video": ("c.mp4", video.read_bytes())}
    assert client.post("/predict", files=sent, headers={"Origin": "http://example.org"}).status_code == 403
    assert client.post("/predict", files=sent, headers={"Origin": "null"}).status_code == 403
    assert client.post("/predict", files=sent, headers={"Origin": "http://["}).status_code == 403
    assert client.post("/predict", files=sent, headers={"Origin": HOST}).status_code == 200


def test_a_token(recogniser: Recogniser, video: Path) -> None:
    sent = {"video": ("c.mp4", video.read_bytes())}
    with (
        opened(recogniser, name="secret", token="s\u00e9cret", follower=Brightness) as service,
        TestClient(make_app(service, is_local=False), base_url="http://example.org") as client,
    ):
        right = {b"Authorization": "Bearer s\u00e9cret".encode()}
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s"}):
            answer = client.post("/predict", files=sent, headers=wrong)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            error(answer)
            assert client.get("/metrics", headers=wrong).status_code == 401
        assert client.post("/predict", files=sent, headers=right).status_code == 200
        assert client.post("/predict?token=s%C3%A9cret", files=sent).status_code == 200
        assert client.get("/metrics?token=s%C3%A9cret").status_code == 200
        assert client.get("/health").status_code == 200
        locked = client.get("/")
        assert locked.status_code == 401
        assert "needs its token" in locked.text
        assert client.get("/?token=s%C3%A9cret").status_code == 200
        described = client.get("/openapi.json?token=s%C3%A9cret").json()
        assert described["paths"]["/predict"]["post"]["security"] == [{"token": []}]


def test_what_kills_the_reader_does_not_kill_the_service(client: TestClient, service: Service, video: Path) -> None:
    sent = {"video": ("c.mp4", video.read_bytes())}
    service.reader._process.kill()
    service.reader._process.join()
    assert client.post("/predict", files=sent).status_code == 200

    def kill_soon() -> None:
        time.sleep(0.3)
        service.reader._process.kill()

    threading.Thread(target=kill_soon).start()
    with pytest.raises(DataError, match=r"clip\.mp4: the process that decoded it died"):
        service.reader.read(Endless(path=video), timeout_s=20)
    with pytest.raises(TimeoutError):
        service.reader.read(Endless(path=video), timeout_s=0.2)
    assert client.post("/predict", files=sent).status_code == 200


class Endless(ClipRequest):
    """Reading it takes for ever."""

    def __reduce__(self) -> Any:
        return time.sleep, (600,)


class WornPipe:
    """The pipe of a reader; who answers through it says that it has taken too much memory."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def recv(self) -> Any:
        answer, is_worn = self._pipe.recv()
        assert not is_worn
        return answer, True


def test_a_reader_that_took_much_memory_is_replaced(video: Path, recogniser: Recogniser) -> None:
    reader = ClipReader(recogniser.config.preprocessing)
    try:
        first = reader._process.pid
        reader.read(ClipRequest(path=video), timeout_s=60)
        assert reader._process.pid == first
        reader._pipe = WornPipe(reader._pipe)  # type: ignore[assignment]
        assert set(reader.read(ClipRequest(path=video), timeout_s=60).frames) == set(recogniser.config.preprocessing)
        second = reader._process.pid
        assert second != first
        reader.read(ClipRequest(path=video), timeout_s=60)
        assert reader._process.pid == second
    finally:
        reader.close()
    with pytest.raises(DataError, match="ending"):
        reader.read(ClipRequest(path=video), timeout_s=1)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes over from another is a matter of Linux")
def test_the_memory_of_the_service_is_not_counted_as_its_readers() -> None:
    script = """
import subprocess, sys
import numpy as np
np.ones(400_000_000, np.uint8)
script = "from kinema.inference.serving.reading import _peak_bytes; print(_peak_bytes())"
subprocess.run([sys.executable, "-c", script], check=True)
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert 10**6 < int(found.stdout) < 400_000_000


def test_what_the_machine_failed_at_is_not_the_clips_fault(
    client: TestClient, service: Service, video: Path, monkeypatch: Any
) -> None:
    def fails(request: ClipRequest, _streams: Any) -> Any:
        raise MachineError(f"{request.path}: cannot be read (Input/output error)")

    def read(request: ClipRequest, *, timeout_s: float) -> Any:
        assert timeout_s > 0
        raise pickle.loads(pickle.dumps(reading._answer(request, {})))  # as it comes through the pipe

    monkeypatch.setattr(reading, "read", fails)
    monkeypatch.setattr(service.reader, "read", read)
    answer = client.post("/predict", files={"video": ("c.mp4", video.read_bytes())})
    assert answer.status_code == 503
    assert error(answer) == "c.mp4: cannot be read (Input/output error)"


def test_a_temporary_folder_that_somebody_cleaned_away(client: TestClient, service: Service, video: Path) -> None:
    sent = {"video": ("c.mp4", video.read_bytes())}
    service.folder.rmdir()
    assert client.post("/predict", files=sent).status_code == 200
    assert service.folder.stat().st_mode & 0o077 == 0  # for nobody else, as it was

    service.folder.rmdir()
    service.folder.touch()
    try:
        answer = client.post("/predict", files=sent)
        assert answer.status_code == 503
        assert "the clip cannot be kept" in error(answer)
    finally:
        service.folder.unlink()
        service.folder.mkdir(0o700)
    with place_for_clip(service.folder) as place:
        place.rmdir()


def test_huge_pictures_are_refused(tmp_path: Path, monkeypatch: Any, recogniser: Recogniser, video: Path) -> None:
    monkeypatch.setattr(reading, "_MOST_PX", 80 * 60 - 1)
    image = tmp_path / "image.png"
    Image.new("RGB", (80, 60)).save(image)
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    for path in (video, image):
        with pytest.raises(DataError, match="at most 4,799 are taken"):
            reading.read(ClipRequest(path=path), recogniser.config.preprocessing)
    with pytest.raises(DataError, match="larger than a picture may be"):
        reading.read(ClipRequest(path=bomb), recogniser.config.preprocessing)


def test_clips_and_cameras_take_turns() -> None:
    thread = ModelThread()
    try:
        order: list[str] = []
        began, begins = threading.Event(), threading.Event()

        def first() -> None:
            began.set()
            begins.wait(10)

        thread.submit(first, kind="clip")
        assert began.wait(10)
        futures = [thread.submit(lambda name=name: order.append(name), kind="clip") for name in ("c1", "c2")]  # type: ignore[misc]
        futures += [thread.submit(lambda name=name: order.append(name), kind="live") for name in ("l1", "l2", "l3")]  # type: ignore[misc]
        futures.pop(1).cancel()
        begins.set()
        for future in futures:
            future.result(10)
        assert order == ["l1", "c1", "l2", "l3"]

        def fails() -> None:
            raise DataError("as it says")

        with pytest.raises(DataError, match="as it says"):
            thread.submit(fails, kind="live").result(10)
    finally:
        thread.close()
    assert thread.submit(lambda: 1, kind="clip").cancelled()


def test_names_of_files() -> None:
    assert clean_name("C:\\clips\\a.mp4") == "a.mp4"
    assert clean_name("a\n\x00b\u202e.mp4") == "ab.mp4"
    assert clean_name("/") == "clip"
    assert len(clean_name("x" * 5000)) == 100


def value(text: str, name: str) -> float:
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def wait_until(holds: Callable[[], bool], *, timeout_s: float = 20) -> None:
    ends_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_s
        time.sleep(0.02)
