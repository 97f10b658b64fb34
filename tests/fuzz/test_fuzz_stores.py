"""Episode stores that were damaged, or that hold other columns: opened whole or refused, by name."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fuzz_helpers import damaged, fuzz, refusal
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distmeta.data.store import EpisodeStore, write_store
from distmeta.errors import DataError


@functools.cache
def small_store() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.arrow")
        images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
        write_store(path, images, ["b", "a", "b", "c", "a", "b"], ["two", "one", "two", "two", "one", "two"])
        return path.read_bytes()


def opened_or_refused(data: bytes) -> None:
    """Whatever is opened can be used without a surprise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.arrow")
        path.write_bytes(data)
        stores: list[EpisodeStore] = []
        error = refusal(lambda: stores.append(EpisodeStore.open(path)))
        assert error is None or (isinstance(error, DataError) and str(path) in str(error))
        for store in stores:
            assert store.images.dtype == np.uint8
            assert store.images.ndim in (3, 4)
            assert len(store.images) == store.counts.sum() == store.first[-1] + store.counts[-1]
            assert (store.counts > 0).all()
            assert list(store.classes) == sorted(set(store.classes))
            assert len(store.classes) == len(store.groups) == len(store.first)
            assert all(isinstance(name, str) for name in (*store.classes, *store.groups))
            assert int(store.images.sum()) >= 0  # every byte is there
            refusal(store.verify)


@fuzz(80, 2000, data=damaged(st.deferred(lambda: st.just(small_store()))))
def test_damaged_stores(data: bytes) -> None:
    opened_or_refused(data)


def columns(draw: st.DrawFn, rows: int) -> dict[str, Any]:
    """Columns of a store, or nearly."""
    flat = pa.array(np.zeros(rows * 4, np.uint8))
    wide = pa.FixedSizeListArray.from_arrays(flat, 4)
    shape = draw(st.sampled_from([(2, 2), (4,), (2, 2, 1), (1, 1, 1, 4)]))
    image = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), wide)
    floats = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 4, np.float32)), 4)
    names = [f"c{number}" for number in sorted(draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)))]
    text = pa.array(names, pa.string())
    odd = [text, pa.array(range(rows)), pa.nulls(rows), pa.array([b"x"] * rows), wide, floats, pa.array([None] * rows)]
    odd += [pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (2, 2)), floats)]
    odd += [pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["x", "x"]))]
    odd += [pa.DictionaryArray.from_arrays(pa.array([None] * rows, pa.int8()), pa.array(["x", None]))]
    odd += [pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array([7]))]
    found = {"image": image, "class": text.dictionary_encode(), "group": text.dictionary_encode(), "more": text}
    for name in list(found):
        change = draw(st.sampled_from(["keep", "keep", "keep", "other", "drop"]))
        if change == "other":
            found[name] = draw(st.sampled_from(odd))
        elif change == "drop":
            del found[name]
    return found


@st.composite
def arrow_files(draw: st.DrawFn) -> bytes:
    """Arrow files of other columns, types, versions, batches."""
    rows = draw(st.integers(0, 4))
    batch = pa.record_batch(columns(draw, rows))
    metadata = draw(st.sampled_from([{}, {"distmeta.schema": "1"}, {"distmeta.sha256": "x"}, {"distmeta.schema": "2"}]))
    if draw(st.integers(0, 4)):
        metadata = {"distmeta.schema": "1", "distmeta.sha256": draw(st.sampled_from(["", "x", b"\xff"]))}
    batch = batch.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=draw(st.sampled_from([None, None, None, "lz4", "zstd"])))
    make = draw(st.sampled_from([pa.ipc.new_file, pa.ipc.new_file, pa.ipc.new_file, pa.ipc.new_stream]))
    with make(sink, batch.schema, options=options) as writer:
        for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


@fuzz(80, 1500, data=arrow_files())
def test_other_columns(data: bytes) -> None:
    opened_or_refused(data)


@fuzz(
    40,
    500,
    images=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=4, max_side=3)),
    data=st.data(),
)
def test_what_is_written_is_read(images: Any, data: Any) -> None:
    names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
    classes = data.draw(st.lists(names, min_size=len(images), max_size=len(images)))
    groups = {name: data.draw(names) for name in classes}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.arrow")
        write_store(path, images, classes, [groups[name] for name in classes])
        store = EpisodeStore.open(path)
        store.verify()
        assert list(store.classes) == sorted(set(classes))
        assert list(store.groups) == [groups[name] for name in store.classes]
        for name, first, count in zip(store.classes, store.first, store.counts, strict=True):
            expected = images[[place for place, each in enumerate(classes) if each == name]]
            assert np.array_equal(store.images[first : first + count], expected)
