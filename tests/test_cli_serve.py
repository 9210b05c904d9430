"""`kinema serve` as a user runs it: a process, its address, signals, and what it refuses to begin with."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.commands import Kinema
from tests.inference.served import jpeg, make_weights, message
from tests.videos import numbered_frames, write_video
from websockets.sync.client import connect

KINEMA = Path(sys.executable).with_name("kinema")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("run") / "my_run" / "weights").parent


@contextmanager
def served(*arguments: object, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The command as a process, its page's address, and what it said before."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [str(KINEMA), "serve", *map(str, arguments), "--port", "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        said: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.rstrip())
                found = re.search(r"serving at (\S+)", line)
                if found is not None:
                    yield process, found[1], said
                    break
            else:
                assert process.stderr is not None
                pytest.fail("\n".join([*said, process.stderr.read()]))
        finally:
            if process.poll() is None:
                process.kill()


def ask(url: str, content: bytes | None = None, **options: Any) -> Any:
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=content, headers=headers)
    with urllib.request.urlopen(request, timeout=60, **options) as answer:
        return json.loads(answer.read())


def test_it_serves_until_it_is_interrupted(weights: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", numbered_frames(16, width_px=80, height_px=60), fps=8)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with served(weights, "enter=0.4", temporary=temporary) as (process, url, said):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        assert len(said) == 2
        assert said[0].startswith("my_run: ")
        assert ask(f"{url}health")["model"] == "my_run"
        found = ask(f"{url}predict?top=1", video.read_bytes())
        predicted = subprocess.run(
            [KINEMA, "predict", weights, video, "--json", "-", "--top", "1"], capture_output=True, check=True
        )
        (expected,) = json.loads(predicted.stdout)
        for task, best in expected["tasks"].items():
            assert found["tasks"][task][0]["class"] == best[0]["class"]
            assert found["tasks"][task][0]["probability"] == pytest.approx(best[0]["probability"], abs=1e-6)
        with connect(f"ws{url.removeprefix('http')}live") as watched:
            assert json.loads(watched.recv(timeout=60))["type"] == "hello"
            for i in range(5):
                watched.send(message(50.0 * i, jpeg(60 * i)))
                answer = json.loads(watched.recv(timeout=60))
                assert answer["type"] in ("answer", "seen")
                assert answer["time_ms"] == 50.0 * i
            assert list(temporary.glob("kinema-serve-*"))
            process.send_signal(signal.SIGINT)  # while a camera is watched
            assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"
    assert not list(temporary.iterdir())


def test_it_is_terminated(weights: Path, tmp_path: Path) -> None:
    with served(weights, temporary=tmp_path) as (process, _, _):
        process.terminate()
        assert process.wait(30) == 143
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"
    assert not list(tmp_path.iterdir())


def test_no_process_outlives_one_that_is_killed(weights: Path, tmp_path: Path) -> None:
    def children(pid: int) -> list[int]:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]

    if not Path("/proc/self/task").is_dir():
        pytest.skip("only where the system tells a process's children")
    with served(weights, temporary=tmp_path) as (process, _, _):
        found = children(process.pid)
        assert found
        process.kill()
        process.wait(30)
        ends_s = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in found):
            assert time.monotonic() < ends_s
            time.sleep(0.1)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_other_machines_need_a_certificate_and_a_token(weights: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *options]
    subprocess.run([*map(str, made)], check=True, capture_output=True)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    secure = ("--host", "0.0.0.0", "--token", "a b", "--certificate", certificate, "--key", key)
    with served(weights, *secure, temporary=temporary) as (_, url, said):
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+/\?token=a%20b", url)
        assert not [line for line in said if line.startswith("warning")]
        context = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(url, timeout=30, context=context) as page:
            assert b"<title>kinema" in page.read()
    with served(weights, "--host", "0.0.0.0", temporary=temporary) as (_, _, said):
        assert [line.partition(";")[0] for line in said if line.startswith("warning")] == [
            "warning: whoever reaches this machine can use it",
            "warning: browsers give pages of other machines no camera without https",
        ]


def test_a_port_that_is_in_use(kinema: Kinema, weights: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = kinema("serve", weights, "--port", port).error()
    assert said == f"--port: 127.0.0.1:{port} is in use; give another, or 0 for any that is free"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "203.0.113.7"), "--host: 203.0.113.7 is no address of this machine"),
        (("--host", "no such host"), "--host: no such host is no address of this machine"),
        (("enter=2",), "enter"),
        (("entre=0.5",), "did you mean 'enter'"),
        (("--settings", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--token", " "), "--token: it is empty"),
        (("--certificate", "a.pem"), "--certificate and --key belong together"),
        (("--certificate", "a.pem", "--key", "b.pem"), "--certificate: a.pem: no such file"),
        (("--timeout-s", "0"), "--timeout-s: 0 is not between 0.1 and 86,400"),
        (("--timeout-s", "inf"), "--timeout-s: inf is not between"),
        (("--timeout-s", "nan"), "--timeout-s: nan is not between"),
        (("--max-upload-mb", "inf"), "--max-upload-mb: inf is not between 0.001 and 1,000,000"),
        (("--max-upload-mb", "nan"), "--max-upload-mb: nan is not between"),
        (("--port", "70000"), "--port"),
    ],
)
def test_what_cannot_begin_says_why(kinema: Kinema, weights: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in kinema("serve", weights, *arguments).error()


def test_a_certificate_that_is_none(kinema: Kinema, weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_text("no certificate")
    assert "cannot be used" in kinema("serve", weights, "--certificate", file, "--key", file).error()


def test_no_weights(kinema: Kinema, tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in kinema("serve", tmp_path / "nothing").error()


def test_what_is_not_installed_is_named(kinema: Kinema, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def hides(name: str, *rest: Any) -> Any:
        return None if name == "uvicorn" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", hides)
    assert kinema("serve", weights).error() == 'kinema serve needs uvicorn: pip install "kinema[serve]"'
