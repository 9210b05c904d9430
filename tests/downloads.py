"""A small UCF101 on the tests' own server, in archives as its makers have it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.archives import rar, write_fake_bsdtar, write_zip
from tests.loopback import Site, whole

from kinema.data.download import download as download_module
from kinema.data.download import sources
from kinema.data.download.sources import SOURCES, File, Source

LISTS = "UCF101TrainTestSplits-RecognitionTask.zip"
VIDEOS = "UCF101.rar"
CLIPS = ("v_Archery_g08_c01.avi", "v_Archery_g01_c01.avi")


def lists_zip(folder: Path) -> bytes:
    files = {
        "ucfTrainTestlist/classInd.txt": b"1 Archery\r\n",
        "ucfTrainTestlist/trainlist01.txt": f"Archery/{CLIPS[0]} 1\r\n".encode(),
        "ucfTrainTestlist/testlist01.txt": f"Archery/{CLIPS[1]}\r\n".encode(),
    }
    return write_zip(folder / "lists.zip", files).read_bytes()


def videos_rar() -> bytes:
    return rar({"UCF-101/": b"", **{f"UCF-101/Archery/{name}": name.encode() * 100 for name in CLIPS}})


def serve_ucf101(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, *, checksums: bool = True
) -> dict[str, bytes]:
    """Have the server serve it and kinema know it; there is a program that unpacks it.

    Returns:
        Name -> content of the archives.
    """
    folder.mkdir()
    content = {LISTS: lists_zip(folder), VIDEOS: videos_rar()}
    for name, archive in content.items():
        site.pages[f"/{name}"] = whole(archive)
    know(monkeypatch, "ucf101", site.url, content if checksums else {})
    (folder / "programs").mkdir()
    write_fake_bsdtar(folder / "programs", sys.executable)
    monkeypatch.setenv("PATH", str(folder / "programs"))
    return content


def know(monkeypatch: pytest.MonkeyPatch, name: str, url: str, content: Mapping[str, bytes]) -> Source:
    """Have kinema believe that a data set is at this address."""

    def moved(file: File) -> File:
        archive = content.get(file.name)
        checksum = None if archive is None else f"sha256:{hashlib.sha256(archive).hexdigest()}"
        size = None if archive is None else len(archive)
        return File(url=f"{url}/{file.name}", num_bytes=size, checksum=checksum)

    source = SOURCES[name]
    parts = tuple(replace(part, files=tuple(map(moved, part.files))) for part in source.parts)
    source = replace(source, parts=parts)
    for module in (sources, download_module):
        monkeypatch.setattr(module, "SOURCES", {**SOURCES, name: source})
    return source
