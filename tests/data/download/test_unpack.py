"""Archives of strangers: what is inside arrives whole and inside, or nothing does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.archives import DEVICE, LINK, rar, special, write_fake_bsdtar, write_tar, write_zip

from kinema.data.download import checks
from kinema.data.download import rar as rar_module
from kinema.data.download import unpack as unpack_module
from kinema.data.download.rar import open_rar
from kinema.data.download.unpack import Unpacked, unpack
from kinema.progress import SILENT, Task
from kinema.types import DataError

FILES = {"clips/run/a b.avi": b"run", "clips/jump/é.avi": b"jump", "clips/empty.txt": b"", "readme.txt": b"!"}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all programs that can be found: a fake bsdtar."""
    folder = tmp_path / "programs"
    folder.mkdir()
    write_fake_bsdtar(folder, sys.executable)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def refused(archive: Path, root: Path) -> str:
    """The one line with which an archive is refused; nothing is left of it, inside or outside."""
    before = sorted(path for path in root.parent.rglob("*"))
    with pytest.raises(DataError) as error:
        unpack(archive, root / "clips")
    assert sorted(path for path in root.parent.rglob("*")) == before
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{archive}: ")
    return message.removeprefix(f"{archive}: ")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2", "rar"])
def test_the_folder_of_the_name_is_what_the_archive_becomes(root: Path, programs: Path, suffix: str) -> None:
    archive = root / f"data.{suffix}"
    if suffix == "zip":
        write_zip(archive, {"clips/": b"", **FILES})
    elif suffix == "rar":
        archive.write_bytes(rar({"clips/": b"", **FILES}))
    else:
        write_tar(archive, FILES)
    assert unpack(archive, root / "clips") == Unpacked(num_files=3, num_bytes=7)
    assert tree(root / "clips") == {"run/a b.avi": b"run", "jump/é.avi": b"jump", "empty.txt": b""}
    assert sorted(path.name for path in root.iterdir()) == ["clips", archive.name]


def test_an_archive_without_it_becomes_the_folder(root: Path) -> None:
    archive = write_zip(root / "data.zip", {"run/a.avi": b"run", "./b.avi": b"b", "win\\c.avi": b"c"})
    assert unpack(archive, root / "clips") == Unpacked(num_files=3, num_bytes=5)
    assert tree(root / "clips") == {"run/a.avi": b"run", "b.avi": b"b", "win/c.avi": b"c"}


@pytest.mark.parametrize("own_folder", [True, False])
def test_archives_inside_are_unpacked_each_into_its_folder(root: Path, programs: Path, own_folder: bool) -> None:
    inside = {name: {f"{name}/" * own_folder + f"{name}_1.avi": name.encode()} for name in ("run", "jump")}
    archive = root / "clips.rar"
    archive.write_bytes(rar({f"{name}.rar": rar(files) for name, files in inside.items()}))
    unpacked = unpack(archive, root / "clips", nested=True)
    assert unpacked == Unpacked(num_files=2, num_bytes=7)
    assert tree(root / "clips") == {"run/run_1.avi": b"run", "jump/jump_1.avi": b"jump"}


OUTSIDE = ["../evil", "clips/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:evil", "a\nb", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_gets_outside(root: Path, programs: Path, name: str) -> None:
    expected = "which would not be inside the folder; refused"
    assert refused(write_zip(root / "data.zip", {"clips/a": b"a", name: b"evil"}), root).endswith(expected)
    assert refused(write_tar(root / "data.tar.gz", {"clips/a": b"a", name: b"evil"}), root).endswith(expected)
    if "\n" not in name:
        (root / "data.rar").write_bytes(rar({"clips/a": b"a", name: b"evil"}))
        assert refused(root / "data.rar", root).endswith(expected)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "rar"])
@pytest.mark.parametrize("files", [{"clips/": b"", "clips/run/": b""}, {"clips/": b"", "readme.txt": b"!"}])
def test_an_archive_without_a_file_of_it_is_refused(
    root: Path, programs: Path, suffix: str, files: dict[str, bytes]
) -> None:
    archive = root / f"data.{suffix}"
    if suffix == "zip":
        write_zip(archive, files)
    elif suffix == "rar":
        archive.write_bytes(rar(files))
    else:
        write_tar(
            archive, {n.rstrip("/"): special(tarfile.DIRTYPE) if n.endswith("/") else c for n, c in files.items()}
        )
    assert refused(archive, root) == "holds no file that could become clips; delete it and run it again"


def test_links_and_devices_are_refused(root: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        archive = write_tar(root / "data.tar", {"clips/a": b"a", "clips/l": special(kind, "../../..")})
        assert refused(archive, root) == "holds a link or device, 'clips/l'; refused"
    for mode in (LINK, DEVICE):
        archive = write_zip(root / "data.zip", {"clips/l": b"../../.."}, modes={"clips/l": mode})
        assert refused(archive, root) == "holds a link or device, 'clips/l'; refused"


def test_a_file_through_a_link_is_refused(root: Path) -> None:
    archive = write_tar(root / "data.tar", {"clips/l": special(tarfile.SYMTYPE, "/tmp"), "clips/l/evil": b"evil"})
    assert refused(archive, root).startswith("holds a link or device")


def test_names_that_come_twice_are_refused(root: Path) -> None:
    archive = write_tar(root / "data.tar", {"clips/a": b"a", "clips/./a": b"b"})
    assert refused(archive, root) == "holds 'a' twice; refused"
    archive = write_tar(root / "data.tar", {"clips/a": b"a", "clips/a/b": b"b"})
    assert refused(archive, root) == "holds a file and a folder called 'a'; refused"


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.xz"])
def test_bombs_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(unpack_module, "_ALWAYS_ALLOWED_BYTES", 5_000_000)
    archive = root / f"data.{suffix}"
    bomb = {f"clips/{number}": bytes(3_000_000) for number in range(2)}
    (write_zip if suffix == "zip" else write_tar)(archive, bomb)
    assert archive.stat().st_size < 50_000
    assert " are no data set; refused" in refused(archive, root)


def test_more_than_fits_on_the_disk_is_refused_before_it_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(root / "data.zip", {"clips/a": bytes(3000)})
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=2000))
    with pytest.raises(DataError, match=r": 2 kB are free and unpacking data\.zip needs 3 kB; make room$"):
        unpack(archive, root / "clips")
    assert [path.name for path in root.iterdir()] == ["data.zip"]


def test_damaged_archives_leave_nothing(root: Path, programs: Path) -> None:
    expected = "damaged, or not what it should be: "
    for archive in (
        write_zip(root / "a.zip", {"clips/a": os.urandom(5000)}),
        write_tar(root / "a.tar.gz", {"clips/a": os.urandom(5000)}),
        write_tar(root / "a.tar.xz", {"clips/a": os.urandom(5000)}),
    ):
        content = bytearray(archive.read_bytes())
        archive.write_bytes(content[:3000])
        assert expected in refused(archive, root) or "cannot be unpacked" in refused(archive, root)
    archive = write_zip(root / "a.zip", {"clips/a": b"abcdefgh" * 500})
    content = bytearray(archive.read_bytes())
    content[40] ^= 255
    archive.write_bytes(content)
    assert refused(archive, root).startswith(expected)
    archive.write_text("<html>not here any more</html>")
    assert refused(archive, root).startswith(expected)
    (root / "a.rar").write_bytes(rar({"clips/a": b"abc" * 100})[:-150])
    assert refused(root / "a.rar", root) == ("damaged: 'a' ends 143 bytes early; delete it and run it again")


def test_an_encrypted_archive_is_refused(root: Path) -> None:
    archive = write_zip(root / "a.zip", {"clips/a": b"abc"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert "password" in refused(archive, root)


def test_an_interruption_leaves_nothing(root: Path) -> None:
    archive = write_zip(root / "data.zip", FILES)

    class Interrupting:
        @contextmanager
        def track(self, description: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
            assert (description, total, unit) == ("Unpacking data.zip", 4, "files")
            yield self

        def advance(self, num: int = 1, **facts: str) -> None:
            assert len(list(root.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, root / "clips", reporter=Interrupting())
    assert [path.name for path in root.iterdir()] == ["data.zip"]


def test_what_a_killed_run_left_is_removed(root: Path) -> None:
    (root / ".clips.123.unpacking" / "clips").mkdir(parents=True)
    (root / ".others.123.unpacking").mkdir()
    unpack(write_zip(root / "data.zip", FILES), root / "clips")
    assert sorted(path.name for path in root.iterdir()) == [".others.123.unpacking", "clips", "data.zip"]


def test_a_full_disk_leaves_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        archive = write_zip(disk / "data.zip", {f"clips/{number}": bytes(400_000) for number in range(4)})
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
        with pytest.raises(DataError) as error:
            unpack(archive, disk / "clips")
        assert str(error.value) == (
            f"{disk / 'clips'}: data.zip cannot be unpacked: No space left on device; make room and run it again; "
            "the archive is kept"
        )
        assert [path.name for path in disk.iterdir()] == ["data.zip"]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_without_a_program_it_says_which_to_install(
    root: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "bsdtar").unlink()
    (root / "data.rar").write_bytes(rar(FILES))
    assert refused(root / "data.rar", root) == (
        "unpacking RAR needs one of the programs bsdtar, unrar, 7z or unar; install one (on Debian and Ubuntu: "
        "apt install libarchive-tools); the archive is kept"
    )


def test_a_program_that_fails_is_quoted(root: Path, programs: Path) -> None:
    (root / "data.rar").write_bytes(rar({"clips/a": b""}))
    write_fake_bsdtar(programs, sys.executable, broken=True)
    assert refused(root / "data.rar", root) == "damaged: bsdtar says: bsdtar: Truncated input"
    for code in ("print('nonsense')", "pass", "import sys; sys.exit('not an archive')"):
        (programs / "bsdtar").write_text(f"#!{sys.executable}\n{code}\n")
        assert refused(root / "data.rar", root).startswith("damaged, or bsdtar cannot read it (")


def test_a_program_that_gives_more_than_it_lists_is_not_believed(root: Path, programs: Path) -> None:
    (root / "data.rar").write_bytes(rar({"clips/a": b"abc"}))
    line = "-rw-r--r--  0 0      0 2 Nov 30  2023 clips/a"
    (programs / "bsdtar").write_text(
        f"#!{sys.executable}\nimport sys\nprint({line!r} if sys.argv[1] == '-tvf' else 'abc')\n"
    )
    assert refused(root / "data.rar", root) == "damaged: holds more than it lists"


UNRAR = """
UNRAR 6.21 freeware      Copyright (c) 1993-2023 Alexander Roshal

Archive: data.rar
Details: RAR 4

        Name: clips/a: b.avi
        Type: File
        Size: 3
 Packed size: 3
       mtime: 2023-11-30 01:01:02,000000000

        Name: clips
        Type: Directory
       mtime: 2023-11-30 01:01:02,000000000

        Name: clips/link
        Type: Unix symbolic link
      Target: /etc
        Size: 4
"""
SEVEN = """Path = clips
Folder = +
Size = 0
Attributes = D drwxr-xr-x

Path = clips/a = b.avi
Folder = -
Size = 3
Attributes =  -rw-r--r--

Path = clips/link
Folder = -
Size = 4
Attributes =  lrwxrwxrwx

Path = clips/plain
Folder = -
Size = 4
Attributes = A
"""


def test_lists_of_the_programs_are_understood() -> None:
    listed = rar_module._parse_unrar(UNRAR)
    assert [(entry.name, entry.num_bytes, entry.kind) for entry in listed] == [
        ("clips/a: b.avi", 3, "file"),
        ("clips", 0, "folder"),
        ("clips/link", 4, "other"),
    ]
    listed = rar_module._parse_7z(SEVEN)
    assert [(entry.name, entry.num_bytes, entry.kind) for entry in listed] == [
        ("clips", 0, "folder"),
        ("clips/a = b.avi", 3, "file"),
        ("clips/link", 4, "other"),
        ("clips/plain", 4, "file"),
    ]
    lines = "drwxr-xr-x  0 0      0           0 Nov 30  2023 a b\nlrwxrwxrwx  0 0      0  0 Nov 21 09:35 l -> ../..\n"
    assert [(entry.name, entry.kind) for entry in rar_module._parse_ls(lines)] == [
        ("a b", "folder"),
        ("l -> ../..", "other"),
    ]


@pytest.mark.parametrize(
    "program",
    [program for program in rar_module._PROGRAMS if program.is_there],
    ids=lambda program: program.decoding[0],
)
def test_real_programs(root: Path, monkeypatch: pytest.MonkeyPatch, program: rar_module._Program) -> None:
    monkeypatch.setattr(rar_module, "_PROGRAMS", (program,))
    archive = root / "data.rar"
    archive.write_bytes(rar({"clips/": b"", **FILES}))
    try:
        with open_rar(archive) as (_, pipe):
            pipe.read()
    except DataError as error:
        pytest.skip(f"this {program.decoding[0]} knows no RAR: {error}")
    assert unpack(archive, root / "clips", reporter=SILENT) == Unpacked(num_files=3, num_bytes=7)
    assert tree(root / "clips") == {"run/a b.avi": b"run", "jump/é.avi": b"jump", "empty.txt": b""}
    shutil.rmtree(root / "clips")
    archive.write_bytes(rar({"../evil": b"evil"}))
    assert refused(archive, root).endswith("which would not be inside the folder; refused")
