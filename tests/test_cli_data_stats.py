"""`kinema data stats`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands import Kinema
from tests.report.made_up import Page
from tests.videos import numbered_frames, write_video


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two clips, and a file that is no video."""
    folder = tmp_path_factory.mktemp("data") / "clips"
    for name in ("jump", "run"):
        for number in (1, 2):
            path = folder / name / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, numbered_frames(10 * number), fps=10)
    (folder / "run" / "3.mp4").write_bytes(b"no video")
    return folder


def test_a_page_and_the_same_numbers_as_json(kinema: Kinema, root: Path) -> None:
    done = kinema("data", "stats", "folder", root, "--json", "stats.json")
    assert done.code == 0, done.err
    assert "page: kinema-data-folder.html" in done.out
    record = json.loads(Path("stats.json").read_text())
    assert record["name"] == "folder"
    assert record["page"] == "kinema-data-folder.html"
    train = record["splits"]["train"]
    assert (train["num_there"], train["num_usable"], train["num_unreadable"]) == (5, 4, 1)
    assert record["tasks"]["action"]["train"]["there"]["counts"] == [2, 3]
    assert record["totals"]["hours"] * 3600 == pytest.approx(6.0)
    page = Page(Path("kinema-data-folder.html"))
    assert "train: 1 of 5 clips cannot be read." in page.text.replace("\xa0", " ")
    assert len(page.attributes("img")) == 4
    line = next(line.split() for line in done.out.splitlines() if line.split()[:1] == ["train"])
    assert line[1:7] == ["5", "5", "0", "1", "0", "4"]


def test_json_alone_on_standard_output(kinema: Kinema, root: Path) -> None:
    done = kinema("data", "stats", "folder", root, "--json", "-", "--page", "my page.html")
    assert done.json["page"] == "my page.html"
    assert "page: my page.html" in done.err
    assert sorted(path.name for path in Path().iterdir()) == ["my page.html", "my page_figures"]


def test_settings_of_the_data_section(kinema: Kinema, root: Path) -> None:
    done = kinema("data", "stats", "folder", root, "data.validation=0.4", "--json", "-")
    assert done.json["settings"] == {"validation": 0.4}
    assert set(done.json["splits"]) == {"train", "validation"}
    assert "data.validation=0.4" in Page(Path("kinema-data-folder.html")).text


def test_its_own_page_is_written_again(kinema: Kinema, root: Path) -> None:
    Path("kinema-data-folder.html").write_text("an older one")
    assert kinema("data", "stats", "folder", root).code == 0
    assert "an older one" not in Path("kinema-data-folder.html").read_text()


def test_quarantine_is_counted(kinema: Kinema, root: Path) -> None:
    assert kinema("data", "check", "folder", root, "--quarantine", "bad.csv").code == 0
    done = kinema("data", "stats", "folder", root, "data.quarantine=bad.csv", "--json", "-")
    train = done.json["splits"]["train"]
    assert (train["num_in_quarantine"], train["num_unreadable"], train["num_usable"]) == (1, 0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--page", "nowhere/page.html"], "--page: nowhere/page.html cannot be written: there is no folder nowhere"),
        (["--page", "."], "--page: . is a folder; give a file"),
        (["data.nonsense=1"], "data.nonsense: unknown key"),
        (["--annotations", "lists"], "--annotations: folder has no separate annotations"),
    ],
)
def test_mistakes_are_one_line_and_known_before_the_work(
    kinema: Kinema, root: Path, arguments: list[str], message: str
) -> None:
    answer = kinema("data", "stats", "folder", root, *arguments)
    assert answer.error().startswith(message)
    assert "Probing" not in answer.err + answer.out
    assert not list(Path().iterdir())


def test_a_root_that_is_not_there(kinema: Kinema) -> None:
    assert "nowhere: no such file or folder" in kinema("data", "stats", "folder", "nowhere").error()


def test_annotations_that_lie_elsewhere(kinema: Kinema, root: Path) -> None:
    lists = Path("lists")
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Jump\n2 Run\n3 Rest\n")
    (lists / "trainlist01.txt").write_text("Jump/v_Jump_g01_c01.avi 1\nRun/v_Run_g01_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Jump/v_Jump_g02_c01.avi\nRun/v_Run_g02_c01.avi\n")
    (Path("videos") / "Jump").mkdir(parents=True)
    (Path("videos") / "Jump" / "v_Jump_g01_c01.mp4").write_bytes((root / "jump" / "1.mp4").read_bytes())
    done = kinema("data", "stats", "ucf101", "videos", "--annotations", "lists", "--json", "-")
    listed = done.json["tasks"]["action"]["train"]
    assert listed["listed"]["counts"] == [1, 1, 0]
    assert listed["there"]["counts"] == [1, 0, 0]
    assert done.json["splits"]["test"]["num_absent"] == 2


def test_help_does_not_load_what_is_heavy() -> None:
    code = (
        "import sys, kinema.cli.data_stats\n"
        "print([name for name in ('torch', 'av', 'numpy', 'PIL', 'kinema.config') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
