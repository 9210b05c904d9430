"""Archives that tests make: honest ones, and such as a stranger might make."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

LINK = 0o120777
DEVICE = 0o020666


def write_zip(path: Path, files: Mapping[str, bytes], *, modes: Mapping[str, int] | None = None) -> Path:
    """A zip with these files, in that order. `modes` makes some of them something else than files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # the constructor mends some
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            archive.writestr(info, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    """A tar with these files, compressed as its suffix says. A `TarInfo` makes something else than a file."""
    compression = {".gz": "gz", ".xz": "xz", ".bz2": "bz2"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload] # of a made-up mode
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    """An entry of a tar that is no file: `tarfile.SYMTYPE` and the like."""
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def rar(files: Mapping[str, bytes]) -> bytes:
    """A RAR (version 4) with these files, not compressed. A name that ends in a slash is a folder."""

    def block(kind: int, flags: int, body: bytes) -> bytes:
        header = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header

    packed = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content in files.items():
        folder = name.endswith("/")
        encoded = name.rstrip("/").encode()
        sizes = struct.pack("<II", len(content), len(content))
        facts = struct.pack(
            "<BIIBBHI", 3, zlib.crc32(content), 0x58210821, 20, 0x30, len(encoded), 0o040755 if folder else 0o100644
        )
        packed += block(0x74, 0x80E0 if folder else 0x8000, sizes + facts + encoded) + content
    return packed + block(0x7B, 0x4000, b"")


FAKE_BSDTAR = '''#!{python}
"""Like bsdtar, for archives that `rar` above has made."""
import struct, sys
content = open(sys.argv[2], "rb").read()
place, status = 7, 0
if {broken!r} and sys.argv[1] == "-xOf":
    sys.stderr.write("bsdtar: Truncated input\\n"); sys.exit(1)
while place < len(content):
    _, kind, flags, size = struct.unpack_from("<HBHH", content, place)
    length = 0
    if kind == 0x74:
        length, _, _, _, _, _, _, count, mode = struct.unpack_from("<IIBIIBBHI", content, place + 7)
        name = content[place + 32:place + 32 + count].decode()
        data = content[place + size:place + size + length]
        if sys.argv[1] == "-tvf":
            letter = {{0o04: "d", 0o12: "l"}}.get(mode >> 12, "-")
            print(f"{{letter}}rw-r--r--  0 0      0 {{length:11}} Nov 30  2023 {{name}}")
        elif mode >> 12 == 0o10:
            sys.stdout.buffer.write(data)
        elif mode >> 12 == 0o04:  # as libarchive 3.6 does with folders of RAR 5
            sys.stderr.write(f"{{name}}: Can't decompress an entry marked as a directory: Invalid argument\\n")
            status = 1
    place += size + length
if status:
    sys.stderr.write("bsdtar: Error exit delayed from previous errors.\\n")
sys.exit(status)
'''


def write_fake_bsdtar(folder: Path, python: str, *, broken: bool = False) -> None:
    """A program called bsdtar that lists and decodes what `rar` makes; a broken one only lists."""
    program = folder / "bsdtar"
    program.write_text(FAKE_BSDTAR.format(python=python, broken=broken))
    program.chmod(0o755)
