"""`kinema serve` under load: what 16 clients are answered that send clips and what is none.

    python benchmarks/serve_load.py [WEIGHTS] [--seconds 120] [--clients 16] [--json FILE] [--quick]

Each client sends one thing after the other, drawn at random: clips, clips that are too large, that are cut short, forms
that break off, text, noise, impossible parameters, and connections that are left in the middle of an upload. One who is
told that the queue is full waits for a moment. A camera of 15 pictures/s is watched all the while. Clips are generated
(`motion`); without WEIGHTS the model is one of small frames that was never trained, which answers as fast.

It prints how every kind was answered, how long clips took, the memory of the service's processes from beginning to end,
and what was left in its temporary folder. It exits with 1 where an answer was another than the kind's, the service died
or anything was left.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness import machine, say, versions
from kinema.files import write_json

_UPLOAD_MB = 2.0
_FULL, _GONE = 429, 0
_BOUNDARY = "kinema-load"

KINDS: Mapping[str, tuple[float, frozenset[int]]] = {
    "clip": (0.45, frozenset({200})),
    "clip, as the body": (0.1, frozenset({200})),
    "too large": (0.08, frozenset({413})),
    "too large, not said before": (0.04, frozenset({413})),
    "cut short": (0.1, frozenset({422})),
    "text": (0.06, frozenset({422})),
    "noise": (0.05, frozenset({422})),
    "form that breaks off": (0.04, frozenset({400})),
    "no form": (0.03, frozenset({415})),
    "impossible parameters": (0.03, frozenset({422})),
    "left in the middle": (0.02, frozenset({_GONE})),
}
"""Kind -> its share, and how it has to be answered. Where room is needed, 429 is right too."""


@dataclass
class Seen:
    """What clients saw."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: list[float] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few seconds: shows that it works")
    given = parser.parse_args()
    seconds = 4.0 if given.quick else given.seconds
    with tempfile.TemporaryDirectory(prefix="kinema-load-") as folder:
        place = Path(folder)
        weights = given.weights or make_weights(place / "weights")
        clips = make_clips(place / "clips", num_clips=4 if given.quick else 16)
        record = load(weights, clips, place, seconds=seconds, num_clients=given.clients)
    if given.json is not None:
        write_json(given.json, {**record, "machine": machine(), "versions": versions(), "quick": given.quick})
    sys.exit(0 if show(record) else 1)


def make_weights(folder: Path) -> Path:
    import torch

    from kinema.models.build import build_model
    from kinema.models.weights import TrainingFacts, WeightsConfig, save
    from kinema.types import Heads, Preprocessing

    heads: Heads = {"action": tuple(f"class {i}" for i in range(10))}
    grey = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(num_frames=16, size_px=64, resize_px=72, fit="crop", mean=grey, std=grey)
    config = WeightsConfig(
        model="cnn_conv1d", arguments={"backbone": "tiny"}, heads=heads, preprocessing={"rgb": preprocessing}
    )
    torch.manual_seed(0)
    model = build_model(config.model, config.arguments, heads=heads, inputs=config.inputs)
    facts = TrainingFacts(
        data={},
        seed=0,
        num_clips=0,
        class_counts={"action": [1] * 10},
        commonest={"action": 0},
        accuracy={},
        num_accuracy_clips=0,
        epoch=0,
        selected_by="",
        groups=[],
        contents=[],
        unmeasured="never trained",
    )
    save(folder, model.state_dict(), config, facts, card="")
    return folder


def make_clips(folder: Path, *, num_clips: int) -> list[bytes]:
    """Clips of `motion`, as MP4."""
    from kinema.data.datasets.motion import motion

    dataset = motion(folder, num_train_backgrounds=1, num_validation_backgrounds=1, num_test_backgrounds=2, size_px=240)
    return [clip.video.read_bytes() for clip in dataset.splits["test"][:num_clips]]


def load(weights: Path, clips: list[bytes], place: Path, *, seconds: float, num_clients: int) -> dict[str, Any]:
    temporary = place / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "kinema.cli.main", "serve", str(weights), "--port", "0"]
    command += ["--max-upload-mb", str(_UPLOAD_MB), "--queue", "8"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = 0
        for line in process.stdout:
            say(f"  {line.rstrip()}")
            if found := re.search(r"serving at http://127.0.0.1:(\d+)/", line):
                port = int(found[1])
                break
        seen = Seen()
        memory: list[tuple[float, int]] = []
        over = threading.Event()
        began_s = time.monotonic()
        clients = [
            threading.Thread(target=client, args=(port, clips, seen, over, number)) for number in range(num_clients)
        ]
        clients.append(threading.Thread(target=camera, args=(port, seen, over)))
        for thread in clients:
            thread.start()
        most_left = 0
        while time.monotonic() - began_s < seconds and process.poll() is None:
            memory.append((time.monotonic() - began_s, resident_bytes(process.pid)))
            most_left = max(most_left, len(files_in(temporary)))
            time.sleep(0.5)
        over.set()
        for thread in clients:
            thread.join(90)
        is_alive = process.poll() is None
        time.sleep(0.5)
        left_before_end = files_in(temporary)
        memory.append((time.monotonic() - began_s, resident_bytes(process.pid)))
        health = json.loads(get(port, "/health")) if is_alive else {}
        process.terminate()
        code = process.wait(30)
    return {
        "seconds": seconds,
        "clients": num_clients,
        "statuses": {kind: dict(counts) for kind, counts in seen.statuses.items()},
        "clip_seconds": quantiles(seen.seconds),
        "camera_delay_s": quantiles(seen.delays_s),
        "memory_bytes": [found for _, found in memory],
        "files_at_once": most_left,
        "files_left": left_before_end,
        "left_behind_the_end": [str(path) for path in temporary.iterdir()],
        "alive": is_alive,
        "exit_code": code,
        "health": health,
        "errors": seen.errors,
    }


def client(port: int, clips: list[bytes], seen: Seen, over: threading.Event, number: int) -> None:
    rng = random.Random(number)
    kinds, shares = list(KINDS), [share for share, _ in KINDS.values()]
    while not over.is_set():
        kind = rng.choices(kinds, shares)[0]
        began_s = time.monotonic()
        try:
            status = SENDERS.get(kind, send_form)(port, kind, clips, rng)
        except (OSError, http.client.HTTPException) as error:
            with seen.lock:
                seen.errors.append(f"{kind}: {type(error).__name__}: {error}")
            continue
        with seen.lock:
            seen.statuses[kind][status] += 1
            if status == 200:
                seen.seconds.append(time.monotonic() - began_s)
        if status == _FULL:
            over.wait(rng.uniform(0.1, 1.0))


def form(name: str, content: bytes, *, is_whole: bool = True) -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="video"; filename="{name}"\r\n\r\n'
    return head.encode() + content + (f"\r\n--{_BOUNDARY}--\r\n".encode() if is_whole else b"")


def send_form(port: int, kind: str, clips: list[bytes], rng: random.Random) -> int:
    clip = rng.choice(clips)
    kind_of = f"multipart/form-data; boundary={_BOUNDARY}"
    query = "?start_s=5&stop_s=1" if kind == "impossible parameters" else ""
    if kind == "clip, as the body":
        return post(port, clip, "video/mp4")
    if kind == "no form":
        return post(port, clip, "text/plain")
    content = {
        "too large": lambda: bytes(int(_UPLOAD_MB * 1e6) + rng.randrange(1, 10**6)),
        "cut short": lambda: clip[: int(len(clip) * rng.uniform(0.1, 0.9))],
        "text": lambda: b"this is no video\n" * rng.randrange(1, 1000),
        "noise": lambda: rng.randbytes(rng.randrange(100, 100_000)),
    }.get(kind, lambda: clip)()
    return post(port, form("clip.mp4", content, is_whole=kind != "form that breaks off"), kind_of, query)


def post(port: int, body: bytes, kind: str, query: str = "") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=80)
    try:
        connection.request("POST", f"/predict{query}", body, {"Content-Type": kind})
        answer = connection.getresponse()
        record = json.loads(answer.read())
        assert "tasks" in record if answer.status == 200 else list(record) == ["error"]
        return answer.status
    finally:
        connection.close()


def send_chunks(port: int, _kind: str, _clips: list[bytes], _rng: random.Random) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=80)
    try:
        body = (bytes(100_000) for _ in range(int(_UPLOAD_MB * 15)))
        connection.request("POST", "/predict", body, {"Content-Type": "video/mp4"}, encode_chunked=True)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def leave(port: int, _kind: str, clips: list[bytes], rng: random.Random) -> int:
    clip = rng.choice(clips)
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: video/mp4\r\nContent-Length: {len(clip)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head.encode() + clip[: len(clip) // 2])
        time.sleep(rng.uniform(0, 0.2))
    return _GONE


SENDERS: Mapping[str, Callable[[int, str, list[bytes], random.Random], int]] = {
    "too large, not said before": send_chunks,
    "left in the middle": leave,
}


def camera(port: int, seen: Seen, over: threading.Event) -> None:
    """15 pictures a second, one under way, as the page does it."""
    from websockets.sync.client import connect

    pictures = []
    for number in range(30):
        buffer = io.BytesIO()
        pixels = np.full((144, 192, 3), 8 * number, np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    with connect(f"ws://127.0.0.1:{port}/live") as watched:
        watched.recv(timeout=30)
        number = 0
        while not over.is_set():
            sent_s = time.monotonic()
            watched.send(struct.pack("<d", 1000 * sent_s) + pictures[number % len(pictures)])
            record = json.loads(watched.recv(timeout=60))
            delay_s = time.monotonic() - sent_s
            with seen.lock:
                seen.delays_s.append(delay_s)
                if record["type"] == "error":
                    seen.errors.append(f"camera: {record['error']}")
            number += 1
            over.wait(max(0.0, 1 / 15 - delay_s))


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def files_in(folder: Path) -> list[str]:
    """Files in a folder and those in it; other than `rglob` it minds none that goes meanwhile."""
    return [str(Path(place) / name) for place, _, names in os.walk(folder) for name in names]


def resident_bytes(pid: int) -> int:
    """Of a process and its children."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(resident_bytes(int(child)) for child in (task / "children").read_text().split())
    except OSError:
        return total
    return total


def quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    found = np.quantile(seconds, (0.5, 0.95, 1.0)).tolist()
    return {"number": len(seconds), "p50": found[0], "p95": found[1], "most": found[2]}


def show(record: Mapping[str, Any]) -> bool:
    """Print what was seen.

    Returns:
        Whether all of it is as it has to be.
    """
    is_right = record["alive"] and record["exit_code"] == 143 and not record["files_left"] and not record["errors"]
    is_right = is_right and not record["left_behind_the_end"]
    say(f"{record['clients']} clients, {record['seconds']:g} s")
    for kind, (_, expected) in KINDS.items():
        counts = record["statuses"].get(kind, {})
        wrong = set(counts) - expected - {_FULL}
        is_right = is_right and not wrong
        words = ", ".join(f"{status or 'left'}: {number}" for status, number in sorted(counts.items()))
        say(f"  {kind:28} {words}{'  WRONG' if wrong else ''}")
    for name, words in (("clip_seconds", "clips, s"), ("camera_delay_s", "camera, s")):
        found = record[name]
        if found:
            say(
                f"  {words:28} {found['number']} answered, p50 {found['p50']:.3f}, p95 {found['p95']:.3f}, "
                f"most {found['most']:.3f}"
            )
    memory = record["memory_bytes"]
    quarter = max(1, len(memory) // 4)
    say(
        f"  {'memory, MB':28} {memory[0] / 1e6:.0f} at first, {max(memory[:quarter]) / 1e6:.0f} at most in the first "
        f"quarter, {max(memory[-quarter:]) / 1e6:.0f} in the last"
    )
    say(
        f"  {'temporary files':28} {record['files_at_once']} at most at once, {len(record['files_left'])} left, "
        f"{len(record['left_behind_the_end'])} behind the end"
    )
    for error in record["errors"][:5]:
        say(f"  {error}")
    say("as it has to be" if is_right else "NOT as it has to be")
    return bool(is_right)


if __name__ == "__main__":
    main()
