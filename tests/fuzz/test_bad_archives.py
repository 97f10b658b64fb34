"""Archives that were made to harm: refused by name, in little memory, and nothing is left."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from fuzz_archives import few_characters, members, packed, png, write_archives

from distmeta.data.omniglot_build import build_omniglot
from distmeta.data.omniglot_source import find_given
from distmeta.errors import DataError

FIRST = "images_background/Greek/character01/0001_01.png"
MIB = 2**20


def huge_image() -> bytes:
    """A PNG of a kilobyte that claims 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def doubled() -> bytes:
    """An archive in which one name stands twice and another one not at all."""
    names = list(members("background"))
    return packed(members("background")).replace(names[1].encode(), names[0].encode())


ARCHIVES = {
    "unpacks to megabytes": (
        lambda: packed({**members("background"), FIRST: bytes(60 * MIB)}),
        r"0001_01\.png' cannot be read \(it unpacks to more than 1,048,576 bytes\)",
    ),
    "an image of gigabytes": (
        lambda: packed({**members("background"), FIRST: huge_image()}),
        r"cannot be read|is 30000 x 30000 pixels instead of 105 x 105",
    ),
    "no PNG": (lambda: packed({**members("background"), FIRST: png(form="TIFF")}), r"0001_01\.png' cannot be read"),
    "a name twice": (doubled, r"holds '.*0001_01\.png' twice"),
    "in both archives": (
        lambda: packed({name.replace("Greek", "Tibetan"): data for name, data in members("background").items()}),
        r"'Tibetan/character01' is in both archives",
    ),
    "a folder for an image": (
        lambda: packed({**{n: d for n, d in members("background").items() if n != FIRST}, f"{FIRST}/": b""}),
        r"is incomplete: 1 of 4 images are missing",
    ),
    "names that lead outside": (
        lambda: packed({**{n: d for n, d in members("background").items() if n != FIRST}, "../../x.png": png()}),
        r"is incomplete: 1 of 4 images are missing",
    ),
    "empty": (lambda: b"\0", r"images_background\.zip is damaged or truncated"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_bad_archives_are_refused_in_little_memory(kind: str, tmp_path: Path) -> None:
    make, message = ARCHIVES[kind]
    write_archives(tmp_path, background=make())
    tracemalloc.start()
    try:
        with few_characters(), pytest.raises(DataError, match=message):
            build_omniglot(tmp_path, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 30 * MIB
    finally:
        tracemalloc.stop()
    assert list((tmp_path / "out").glob("*")) == []


def test_a_size_that_is_not_the_real_one(tmp_path: Path) -> None:
    """The directory claims a hundred bytes; what is packed would be tens of megabytes."""
    data = packed({**members("background"), FIRST: bytes(60 * MIB)})
    write_archives(tmp_path, background=data.replace(struct.pack("<I", 60 * MIB), struct.pack("<I", 100)))
    tracemalloc.start()
    try:
        with few_characters(), pytest.raises(DataError, match=r"cannot be read \(Bad CRC-32"):
            build_omniglot(tmp_path, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 30 * MIB
    finally:
        tracemalloc.stop()


def test_a_good_archive_of_this_size_is_taken(tmp_path: Path) -> None:
    write_archives(tmp_path)
    with few_characters():
        assert build_omniglot(tmp_path, tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["a\0b", "~nobody-of-this-name/data", "\udcff", "s3://\ud800"])
def test_places_that_cannot_be(place: str) -> None:
    with pytest.raises(DataError):
        find_given(place)
