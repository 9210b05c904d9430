"""From the name of a data set to its folder: nothing before the licence, nothing twice, nothing lost."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.downloads import CLIPS, LISTS, VIDEOS, know, serve_ucf101
from tests.loopback import Site, in_turn, only_loopback, serving, status, whole

from kinema import registry
from kinema.config import section_model
from kinema.data.download import download as download_module
from kinema.data.download import fetch as fetch_module
from kinema.data.download.download import (
    RECORD,
    PartReport,
    accept_licence,
    download,
    ensure,
    licence_accepted,
    missing_parts,
)
from kinema.data.download.sources import SOURCES, choose_parts, find_source
from kinema.data.load_dataset import load_dataset
from kinema.sections import DataSection
from kinema.types import ConfigError, DataError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    only_loopback(monkeypatch)
    monkeypatch.setattr(fetch_module, "_FIRST_WAIT_S", 0.0)
    with serving() as made:
        yield made


@pytest.fixture
def archives(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    return serve_ucf101(site, tmp_path / "made", monkeypatch)


def get_ucf101(root: Path, **options: Any) -> list[PartReport]:
    source = find_source("ucf101", key="NAME")
    accept_licence(root, "ucf101", source)
    return download("ucf101", root, choose_parts("ucf101", source), **options)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def section(name: str, **values: Any) -> DataSection:
    checked = section_model(registry.entry("dataset", name, key="data.name")).model_validate({"name": name, **values})
    assert isinstance(checked, DataSection)
    return checked


@pytest.mark.usefixtures("archives")
def test_a_data_set_arrives_as_its_function_wants_it(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "new" / "ucf101"
    reports = get_ucf101(root)
    assert [(report.name, report.status, report.num_files) for report in reports] == [
        ("lists", "fetched", 3),
        ("videos", "fetched", 2),
    ]
    assert names(root) == [RECORD, "UCF-101", "ucfTrainTestlist"]
    dataset = load_dataset(section("ucf101", root=root), seed=0)
    assert dataset.num_listed == {"train": 1, "test": 1}
    assert not dataset.absent
    assert site.paths() == [f"/{LISTS}", f"/{VIDEOS}"]
    assert site.most_at_once == 1


def test_the_record_says_what_came_from_where(site: Site, archives: dict[str, bytes], tmp_path: Path) -> None:
    get_ucf101(tmp_path / "root")
    record = json.loads((tmp_path / "root" / RECORD).read_text())
    assert record["name"] == "ucf101"
    assert record["licence"]["text"] == SOURCES["ucf101"].licence
    assert record["licence"]["accepted"].endswith("+00:00")
    videos = record["parts"]["videos"]
    assert (videos["folder"], videos["num_files"]) == ("UCF-101", 2)
    (file,) = videos["files"]
    assert file["url"] == f"{site.url}/{VIDEOS}"
    assert file["num_bytes"] == len(archives[VIDEOS])
    assert file["published_checksum"] == f"sha256:{file['sha256']}"
    assert record["archives"] == {}


@pytest.mark.usefixtures("archives")
def test_what_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "UCF-101" / "Archery").mkdir(parents=True)  # somebody's own half of it
    (root / "UCF-101" / "Archery" / CLIPS[0]).touch()
    (root / "ucfTrainTestlist").mkdir()  # empty: that is nothing
    assert [part.name for part in missing_parts(root, SOURCES["ucf101"].parts)] == ["lists"]
    assert [(report.name, report.status) for report in get_ucf101(root)] == [("lists", "fetched"), ("videos", "there")]
    assert site.paths() == [f"/{LISTS}"]
    assert {report.status for report in get_ucf101(root)} == {"there"}
    assert site.paths() == [f"/{LISTS}"]


def test_an_interrupted_download_goes_on_where_it_was(site: Site, archives: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "root"
    site.pages[f"/{VIDEOS}"] = whole(archives[VIDEOS], breaks={0: 1000} | dict.fromkeys(range(1, 9), 0))
    with pytest.raises(DataError, match="gave up after 5 attempts"):
        get_ucf101(root)
    assert names(root) == [RECORD, f"{VIDEOS}.part", f"{VIDEOS}.part.json", "ucfTrainTestlist"]
    site.asked.clear()
    site.pages[f"/{VIDEOS}"] = whole(archives[VIDEOS])
    get_ucf101(root)
    assert site.paths() == [f"/{VIDEOS}"]
    assert site.ranges() == ["bytes=1000-"]
    assert names(root) == [RECORD, "UCF-101", "ucfTrainTestlist"]


def test_a_mirror_stands_in_for_the_makers(site: Site, archives: dict[str, bytes], tmp_path: Path) -> None:
    pages = site.pages.copy()
    site.pages.clear()
    site.pages |= {f"/mirror{path}": behaviour for path, behaviour in pages.items()}
    get_ucf101(tmp_path / "root", mirror=f"{site.url}/mirror/")
    assert site.paths() == [f"/mirror/{LISTS}", f"/mirror/{VIDEOS}"]
    with pytest.raises(DataError, match=r"^nonsense: not an address"):
        get_ucf101(tmp_path / "root", mirror="nonsense")


def test_nothing_is_fetched_before_the_licence_is_accepted(
    site: Site, archives: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    source = find_source("ucf101", key="NAME")
    with pytest.raises(ConfigError, match=r"^ucf101: the licence was not accepted for .*root; nothing was fetched$"):
        download("ucf101", root, source.parts)
    assert not root.exists()
    accept_licence(root, "ucf101", source)
    assert licence_accepted(root, "ucf101", source)
    changed = replace(source, licence="Another one.")
    monkeypatch.setattr(download_module, "SOURCES", {"ucf101": changed})
    with pytest.raises(ConfigError, match="the licence was not accepted"):
        download("ucf101", root, source.parts)
    assert not site.asked


def test_a_folder_is_one_data_set_s(tmp_path: Path) -> None:
    accept_licence(tmp_path, "ucf101", SOURCES["ucf101"])
    with pytest.raises(
        ConfigError, match=r"holds ucf101 already, as \.kinema-download\.json says; give hmdb51 another"
    ):
        accept_licence(tmp_path, "hmdb51", SOURCES["hmdb51"])
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(DataError, match=r"\.kinema-download\.json: not readable JSON"):
        licence_accepted(tmp_path, "ucf101", SOURCES["ucf101"])


def test_an_archive_that_somebody_brought_is_used_and_kept(
    site: Site, archives: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / VIDEOS).write_bytes(archives[VIDEOS])
    with caplog.at_level(logging.INFO, logger="kinema"):
        get_ucf101(root)
    assert site.paths() == [f"/{LISTS}"]
    assert names(root) == [RECORD, "UCF-101", VIDEOS, "ucfTrainTestlist"]
    assert f"{root / VIDEOS} is there already and is used as it is" in caplog.messages


@pytest.mark.usefixtures("archives", "site")
def test_another_archive_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / VIDEOS).write_bytes(b"half of it")
    with pytest.raises(
        DataError, match=r"UCF101\.rar: is not the published file: its checksum is sha256:.*; remove it"
    ):
        get_ucf101(tmp_path / "root")
    assert (tmp_path / "root" / VIDEOS).read_bytes() == b"half of it"


def test_an_archive_that_cannot_be_unpacked_yet_is_not_fetched_again(
    site: Site,
    archives: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, programs = tmp_path / "root", os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DataError, match=r"UCF101\.rar: unpacking RAR needs one of .*libarchive-tools\); the archive is"
    ):
        get_ucf101(root)
    assert any("UCF101.rar is fetched and kept until then" in message for message in caplog.messages)
    assert (root / VIDEOS).read_bytes() == archives[VIDEOS]
    monkeypatch.setenv("PATH", programs)
    site.asked.clear()
    get_ucf101(root)
    assert not site.asked
    assert names(root) == [RECORD, "UCF-101", "ucfTrainTestlist"]


def test_an_archive_that_is_none_says_so(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_ucf101(site, tmp_path / "made", monkeypatch, checksums=False)
    site.pages[f"/{LISTS}"] = whole(b"<html>We have moved</html>")
    with pytest.raises(
        DataError, match=r"Task\.zip: damaged, or not what it should be: .*; delete it and run it again$"
    ):
        get_ucf101(tmp_path / "root")
    assert not (tmp_path / "root" / "ucfTrainTestlist").exists()


def test_two_at_once_wait_for_each_other(site: Site, archives: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "root"
    accept_licence(root, "ucf101", SOURCES["ucf101"])
    other = os.open(root, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    second = threading.Thread(target=get_ucf101, args=(root,))
    second.start()
    time.sleep(0.2)
    assert not site.asked
    os.close(other)
    second.join(10)
    assert (root / "UCF-101").is_dir()


def test_files_that_are_used_as_they_are_go_on_with_the_missing_ones(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = know(monkeypatch, "epic_kitchens_55", site.url, {})
    (part,) = source.parts
    for file in part.files:
        site.pages[f"/{file.name}"] = whole(file.name.encode())
    last = part.files[-1].name
    site.pages[f"/{last}"] = in_turn(status(404, then=whole(b"")), whole(b"in the end"))
    accept_licence(tmp_path, "epic_kitchens_55", source)
    with pytest.raises(DataError, match="answers 404"):
        download("epic_kitchens_55", tmp_path, source.parts)
    site.asked.clear()
    (report,) = download("epic_kitchens_55", tmp_path, source.parts)
    assert site.paths() == [f"/{last}"]
    assert (report.status, report.num_files) == ("fetched", len(part.files))
    assert (tmp_path / part.folder / last).read_bytes() == b"in the end"
    record = json.loads((tmp_path / RECORD).read_text())
    assert [file["name"] for file in record["parts"]["annotations"]["files"]] == [file.name for file in part.files]


# What is known of data sets


def test_facts_are_well_formed() -> None:
    for name, source in SOURCES.items():
        assert source.parts or source.by_hand, name
        for places in ([part.name for part in source.parts], [part.folder for part in source.parts]):
            assert len(set(places)) == len(places)
        for part in source.parts:
            assert part.name not in source.by_hand
            assert not part.archive or len(part.files) == 1
            assert len({file.name for file in part.files}) == len(part.files)
            assert not part.archive or part.files[0].name.endswith((".zip", ".rar", ".tar.gz"))
            for file in part.files:
                assert re.fullmatch(r"https?://[a-z0-9.-]+/\S+", file.url)
                assert file.checksum is None or re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", file.checksum)
                assert file.num_bytes is None or file.num_bytes > 1000


def test_every_data_set_is_fetched_or_says_why_not() -> None:
    assert set(SOURCES) <= set(registry.entries("dataset"))
    for name in registry.entries("dataset"):
        if name not in SOURCES:
            with pytest.raises(ConfigError) as error:
                find_source(name, key="NAME")
            assert re.fullmatch(rf"NAME: {name} (makes its own|is for your own) videos; .*", str(error.value))
    with pytest.raises(ConfigError, match=r"^NAME: there is no dataset 'ucf11'; did you mean 'ucf101'\?"):
        find_source("ucf11", key="NAME")


def test_a_data_set_of_somebody_else_s_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {**registry.entries("dataset"), "theirs": registry.entries("dataset")["folder"]}
    monkeypatch.setattr(registry, "entries", lambda kind: entries)
    with pytest.raises(ConfigError, match=r"^NAME: theirs does not say where it can be downloaded; fetch it by hand$"):
        find_source("theirs", key="NAME")


@pytest.mark.parametrize("name", ["kinetics400", "kinetics600", "kinetics700"])
def test_nothing_is_fetched_that_may_not_be(name: str) -> None:
    source = SOURCES[name]
    assert not source.parts
    with pytest.raises(ConfigError, match=rf"^{name}: the videos are not fetched by kinema but by hand, from https://"):
        choose_parts(name, source)
    assert any("YouTube" in line for line in source.by_hand["videos"])


def test_parts_are_chosen_by_name() -> None:
    source = SOURCES["epic_kitchens_100"]
    assert [part.name for part in choose_parts("epic_kitchens_100", source)] == ["annotations"]
    with pytest.raises(ConfigError, match=r"^epic_kitchens_100: the videos are not fetched by kinema"):
        choose_parts("epic_kitchens_100", source, ["videos"])
    with pytest.raises(ConfigError, match=r"^--only: ucf101 has no part 'video'; did you mean 'videos'\?"):
        choose_parts("ucf101", SOURCES["ucf101"], ["video"])
    assert [part.name for part in choose_parts("ucf101", SOURCES["ucf101"], ["videos"])] == ["videos"]


# data.download


@pytest.mark.usefixtures("archives")
def test_a_recipe_fetches_what_is_missing(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    wanted = section("ucf101", root=root, download=True)
    with pytest.raises(ConfigError) as error:
        load_dataset(wanted, seed=0)
    assert str(error.value) == (
        "data.download: the licence of UCF101 was not accepted yet; read it and accept it once with: "
        f"kinema data download ucf101 {root}"
    )
    assert not site.asked
    monkeypatch.setenv("KINEMA_ACCEPT_LICENCE", "1")
    assert load_dataset(wanted, seed=0).num_listed == {"train": 1, "test": 1}
    assert len(site.asked) == 2
    load_dataset(wanted, seed=0)
    assert len(site.asked) == 2


@pytest.mark.usefixtures("archives")
def test_a_recipe_needs_no_second_acceptance(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_licence(tmp_path / "root", "ucf101", SOURCES["ucf101"])
    site.pages |= {f"/mirror{path}": behaviour for path, behaviour in site.pages.items()}
    monkeypatch.setenv("KINEMA_MIRROR", f"{site.url}/mirror")
    load_dataset(section("ucf101", root=tmp_path / "root", download=True), seed=0)
    assert site.paths() == [f"/mirror/{LISTS}", f"/mirror/{VIDEOS}"]


def test_a_recipe_that_does_not_ask_fetches_nothing(site: Site, tmp_path: Path) -> None:
    accept_licence(tmp_path, "ucf101", SOURCES["ucf101"])
    with pytest.raises(DataError, match="trainlist01"):
        load_dataset(section("ucf101", root=tmp_path), seed=0)
    assert not site.asked


@pytest.mark.usefixtures("archives")
def test_lists_that_lie_elsewhere_are_not_fetched(site: Site, tmp_path: Path) -> None:
    get_ucf101(tmp_path / "elsewhere")
    site.asked.clear()
    accept_licence(tmp_path / "root", "ucf101", SOURCES["ucf101"])
    lists = str(tmp_path / "elsewhere" / "ucfTrainTestlist")
    load_dataset(section("ucf101", root=tmp_path / "root", download=True, annotations=lists), seed=0)
    assert site.paths() == [f"/{VIDEOS}"]


def test_a_recipe_cannot_fetch_everything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.download: motion makes its own videos"):
        ensure(section("motion", root=tmp_path, download=True))
    with pytest.raises(ConfigError, match=r"^data\.root: missing; data\.download needs a folder"):
        ensure(section("ucf101", download=True))
    for name in ("kinetics400", "kinetics600", "kinetics700"):
        with pytest.raises(ConfigError) as error:
            load_dataset(section(name, root=tmp_path, download=True), seed=0)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(
            f"data.download: {name} is not fetched by kinema but by hand, from {SOURCES[name].page}, and is not "
            "there yet: "
        )


def test_what_may_not_be_fetched_may_be_there(tmp_path: Path) -> None:
    video = tmp_path / "train" / "archery" / "abcdefghijk_000001_000011.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\narchery,abcdefghijk,1,11,train,0\n"
    )
    wanted = section("kinetics400", root=tmp_path, download=True)
    assert load_dataset(wanted, seed=0).splits["train"][0].video == video
    video.unlink()
    with pytest.raises(ConfigError, match=r"^data\.download: kinetics400 is not fetched by kinema but by hand"):
        load_dataset(wanted, seed=0)
