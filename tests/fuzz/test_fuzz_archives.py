"""Omniglot's archives, damaged or made by somebody else: a whole store, or a message and nothing."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from typing import Any

from fuzz_archives import few_characters, members, packed, png, valid, write_archives
from fuzz_helpers import damaged, fuzz, refusal
from hypothesis import strategies as st

from distmeta.data.omniglot_build import build_omniglot
from distmeta.data.omniglot_source import find_given, fingerprint
from distmeta.data.store import EpisodeStore
from distmeta.errors import DataError


def built_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, few_characters():
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        write_archives(source, background=data)
        error = refusal(lambda: build_omniglot(source, out))
        assert error is None or isinstance(error, DataError)
        refusal(lambda: fingerprint(find_given(str(source))))
        left = [path.name for path in out.rglob("*")] if out.exists() else []
        assert left == ([] if error else ["omniglot-28.arrow"])
        if error is None:
            store = EpisodeStore.open(out / "omniglot-28.arrow")
            store.verify()
            assert store.counts.sum() == 6


@fuzz(60, 1500, data=damaged(st.deferred(lambda: st.just(valid("background")))))
def test_damaged_archives(data: bytes) -> None:
    built_or_refused(data or b"\0")


CONTENTS = [
    *(b"", b"x", b"\x89PNG\r\n\x1a\n", png(mode="L"), png(mode="RGB"), png(104, 105), png(1, 1), png(form="BMP")),
    *(png(form="GIF"), png(form="TIFF"), bytes(3 * 2**20), png(mode="RGBA")),
]
NAMES = [
    *("../../x.png", "/etc/x.png", "images_background/../character01/x.png", "images_background/Greek/", "a\\b.png"),
    *("images_background/Greek/character01/0001_01.png/", "images_background/Greek/character99/1.png", "C:/x", "é.png"),
    *("images_evaluation/Tibetan/character01/0001_01.png", "images_background/Tibetan/character01/0001_01.png"),
]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Archives with other members: renamed, exchanged, missing, too many."""
    files = dict(members("background"))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        change = draw(st.sampled_from(["content", "damage", "rename", "drop", "add"]))
        if change == "content":
            files[name] = draw(st.sampled_from(CONTENTS))
        elif change == "damage":
            files[name] = with_sums(draw(damaged(st.just(files[name]))))
        elif change == "rename":
            files[draw(st.sampled_from(NAMES))] = files.pop(name)
        elif change == "drop" and len(files) > 1:
            del files[name]
        elif change == "add":
            files[draw(st.sampled_from(NAMES))] = draw(st.sampled_from(CONTENTS))
    return packed(files)


def with_sums(data: bytes) -> bytes:
    """A damaged PNG whose chunks' sums are right again, as far as its chunks can be told."""
    found, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunk = data[at + 4 : at + 8 + size]
        found += data[at : at + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        at += 12 + size
    return bytes(found + data[at:])


@fuzz(40, 1000, data=archives())
def test_other_members(data: Any) -> None:
    built_or_refused(data)
