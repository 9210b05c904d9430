"""`kinema data download`: the licence first, one line for every mistake, JSON alone where JSON was asked for."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.commands import Kinema
from tests.downloads import LISTS, VIDEOS, serve_ucf101
from tests.loopback import Site, only_loopback, serving, status, whole

from kinema.data.download import fetch as fetch_module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    only_loopback(monkeypatch)
    monkeypatch.setattr(fetch_module, "_FIRST_WAIT_S", 0.0)
    with serving() as made:
        serve_ucf101(made, tmp_path / "made", monkeypatch)
        yield made


def terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Somebody sits there and answers."""
    keyboard = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", keyboard)


def test_a_data_set_is_fetched(kinema: Kinema, site: Site) -> None:
    answer = kinema("data", "download", "ucf101", "root", "--accept-licence")
    assert answer.code == 0
    assert not answer.err
    lines = answer.out.splitlines()
    assert lines[0] == "UCF101: https://www.crcv.ucf.edu/data/UCF101.php"
    assert lines[1].startswith("licence: No licence text is known; ask its makers")
    assert "lists: 3 files, 75 bytes, in root/ucfTrainTestlist" in lines
    assert "videos: 2 files, 4.2 kB, in root/UCF-101" in lines
    assert lines[-1] == "next: kinema data check ucf101 root"
    again = kinema("data", "download", "ucf101", "root")
    assert again.code == 0
    assert "everything is there already in root" in again.out
    assert len(site.asked) == 2


def test_json_alone_where_json_was_asked_for(kinema: Kinema, site: Site) -> None:
    answer = kinema("data", "download", "ucf101", "root", "--accept-licence", "--only", "lists", "--json", "-")
    assert answer.code == 0
    assert answer.json["name"] == "ucf101"
    assert answer.json["licence"]["address"].startswith("https://")
    (part,) = answer.json["parts"]
    assert (part["name"], part["status"], part["num_files"]) == ("lists", "fetched", 3)
    assert part["files"][0]["checksum"].startswith("sha256:")
    assert site.paths() == [f"/{LISTS}"]
    both = kinema("data", "download", "ucf101", "root", "--only", "lists", "--only", "videos", "--json", "facts.json")
    assert both.code == 0
    parts = json.loads(Path("facts.json").read_text())["parts"]
    assert {part["name"]: part["status"] for part in parts} == {"lists": "there", "videos": "fetched"}


def test_without_a_terminal_the_licence_is_accepted_by_an_option(kinema: Kinema, site: Site) -> None:
    answer = kinema("data", "download", "ucf101", "root")
    assert answer.error().startswith("--accept-licence: missing; read the licence of ucf101 at https://")
    assert "licence: No licence text is known; ask its makers" in answer.out
    assert not site.asked
    assert not Path("root").exists()


@pytest.mark.parametrize("typed", ["n", "", "no"])
def test_somebody_declines(kinema: Kinema, site: Site, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    terminal(monkeypatch, typed)
    answer = kinema("data", "download", "ucf101", "root")
    assert answer.code == 2
    assert answer.err.splitlines()[-1].endswith("error: ucf101: the licence was not accepted; nothing was fetched")
    assert not site.asked
    assert not Path("root").exists()


def test_somebody_accepts_once(kinema: Kinema, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch, "y")
    answer = kinema("data", "download", "ucf101", "root", "--only", "lists", "--json", "-")
    assert answer.code == 0
    assert "Do you accept this licence?" in answer.err
    assert answer.json["parts"][0]["status"] == "fetched"
    assert kinema("data", "download", "ucf101", "root").code == 0
    assert site.paths() == [f"/{LISTS}", f"/{VIDEOS}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ucf11", "root"], "NAME: there is no dataset 'ucf11'; did you mean 'ucf101'?"),
        (["motion", "root"], "NAME: motion makes its own videos; give data.root an empty folder and train"),
        (["table", "root"], "NAME: table is for your own videos; there is nothing to download"),
        (["ucf101", "root", "--only", "clips"], "--only: ucf101 has no part 'clips'"),
        (["ucf101", "root", "--mirror", "nonsense"], "--mirror: nonsense is not an address that begins with http:"),
        (["ucf101", "file"], "ROOT: file is a file; give a folder"),
        (["ucf101", "root", "--json", "nowhere/facts.json"], "--json: nowhere/facts.json cannot be written"),
    ],
)
def test_mistakes_are_one_line(kinema: Kinema, site: Site, arguments: list[str], message: str) -> None:
    Path("file").touch()
    assert kinema("data", "download", *arguments, "--accept-licence").error().startswith(message)
    assert not site.asked


@pytest.mark.parametrize("arguments", [["kinetics400"], ["epic_kitchens_100", "--only", "videos"]])
def test_what_may_not_be_fetched_is_explained(kinema: Kinema, site: Site, arguments: list[str]) -> None:
    answer = kinema("data", "download", arguments[0], "root", *arguments[1:], "--accept-licence")
    assert answer.error().startswith(f"{arguments[0]}: the videos are not fetched by kinema but by hand, from https://")
    assert "videos: not fetched by kinema." in answer.out
    assert "https://github.com/" in answer.out
    assert not site.asked
    assert not Path("root").exists()


def test_a_mirror_that_has_it_not(kinema: Kinema, site: Site) -> None:
    site.pages.clear()
    answer = kinema("data", "download", "ucf101", "root", "--accept-licence", "--mirror", f"{site.url}/x/")
    assert answer.error() == (
        f"{site.url}/x/{LISTS}: the server answers 404 Not Found; see whether it has moved, or give another place "
        "with --mirror"
    )


def test_a_server_that_is_down(kinema: Kinema, site: Site) -> None:
    site.pages[f"/{LISTS}"] = status(503, then=whole(b""))
    answer = kinema("data", "download", "ucf101", "root", "--accept-licence")
    assert answer.error().endswith("the server answers 503 Service Unavailable; gave up after 5 attempts")
    assert answer.out.count("trying again in") == 4


def test_help_needs_no_server(kinema: Kinema) -> None:
    answer = kinema("data", "download", "--help")
    assert answer.code == 0
    for option in ("--accept-licence", "--mirror", "--only", "--json"):
        assert option in answer.out


def test_it_loads_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['kinema', 'data', 'download', 'kinetics400', {str(tmp_path / 'root')!r}]\n"
        "from kinema.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as leave:\n    assert leave.code == 2\n"
        "print(sorted({'torch', 'numpy', 'av', 'lightning'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"


def test_control_c_leaves_the_part_and_says_how_to_go_on(tmp_path: Path) -> None:
    content = os.urandom(400_000)
    with serving() as site:
        for name in (LISTS, VIDEOS):
            site.pages[f"/{name}"] = whole(content, pause_s=3.0)
        command = ["data", "download", "ucf101", str(tmp_path / "root"), "--accept-licence", "--mirror", site.url]
        # The published size is another; without it nothing would be fetched from this server.
        program = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from dataclasses import replace\n"
            "from kinema.data.download import sources\n"
            "part = sources.SOURCES['ucf101'].parts[0]\n"
            "part = replace(part, files=(sources.File(url=part.files[0].url),))\n"
            "sources.SOURCES['ucf101'] = replace(sources.SOURCES['ucf101'], parts=(part,))\n"
            f"sys.argv = ['kinema', *{command!r}]\n"
            "from kinema.cli.main import main\n"
            "main()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            part = tmp_path / "root" / f"{LISTS}.part"
            until = time.monotonic() + 20
            while not (part.exists() and part.stat().st_size) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert err == "stopped\n"
    assert out.splitlines()[-1] == f"what came so far is kept; go on with: kinema {' '.join(command)}"
    assert content.startswith(part.read_bytes())
    assert part.stat().st_size >= 100_000
