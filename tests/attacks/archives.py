"""Zip archives that are not quite what torch.save wrote."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping


def zipped(members: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def rewritten(data: bytes, change: Callable[[dict[str, bytes]], Mapping[str, bytes]]) -> bytes:
    """An archive with its members changed and every checksum right again."""
    return zipped(change(members_of(data)))


def flipped(data: bytes, position: int, bit: int) -> bytes:
    out = bytearray(data)
    out[position] ^= 1 << bit
    return bytes(out)


def marked_as_folder(data: bytes, member: str) -> bytes:
    """The member's entry in the directory says that it is a folder; its data and checksum are right."""
    out = bytearray(data)
    place = data.rfind(member.encode())  # the directory comes last
    out[place - 8] |= 0x10
    return bytes(out)


def with_member_twice(data: bytes, member: str, content: bytes) -> bytes:
    """A second member whose name differs in case only."""
    return rewritten(data, lambda members: {**members, member.replace("data.pkl", "DATA.PKL"): content})


def overlapping(size: int) -> bytes:
    """A member of `size` bytes inside another one: the contents add up to more than the file."""
    inner = zipfile.ZipInfo("archive/data/2")
    content = bytes(size)
    inner.file_size = inner.compress_size = size
    inner.CRC = zlib.crc32(content)
    outer = inner.FileHeader(zip64=False) + content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/1", outer)
        inner.header_offset = buffer.tell() - len(outer)
        archive.filelist.append(inner)
    return buffer.getvalue()
