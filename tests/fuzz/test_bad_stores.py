"""Arrow files that are no episode stores: one test for each kind that was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distmeta.data.store import EpisodeStore
from distmeta.errors import DataError


def tensors(dtype: pa.DataType, shape: tuple[int, ...], rows: int = 2, gaps: bool = False) -> pa.Array:
    size = int(np.prod(shape))
    values = pa.array([None if gaps else 0] * (rows * size), dtype)
    return pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(dtype, shape), pa.FixedSizeListArray.from_arrays(values, size)
    )


def names(indices: list[Any], found: list[Any]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(found))


IMAGES, CLASSES = tensors(pa.uint8(), (2, 2)), names([0, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"image": pa.array(["x", "y"])}, "its images are of type string", id="no tensors"),
        pytest.param({"image": tensors(pa.float32(), (2, 2))}, "its images are of type", id="floats"),
        pytest.param({"image": tensors(pa.uint8(), (4,))}, "its images are of type", id="one dimension"),
        pytest.param({"image": tensors(pa.uint8(), (2, 2), gaps=True)}, "its images have gaps", id="missing pixels"),
        pytest.param({"class": pa.array(["a", "b"])}, "its column class is of type string", id="plain names"),
        pytest.param({"class": names([0, 1], [7, 8])}, "its column class is of type", id="numbers for names"),
        pytest.param({"class": names([0, None], ["a", "b"])}, "its column class has gaps", id="missing names"),
        pytest.param({"class": names([0, 1], ["b", "a"])}, "not sorted by class", id="not sorted"),
        pytest.param({"class": names([0, 1], ["a", "a"])}, "not sorted by class", id="a class twice"),
        pytest.param({"class": names([0, 0], ["a", "b"])}, "not sorted by class", id="a class without rows"),
        pytest.param({"group": names([0, 0], [None])}, "its column group", id="missing groups"),
    ],
)
def test_other_columns_are_refused(change: dict[str, pa.Array], message: str, tmp_path: Path) -> None:
    batch = pa.record_batch({"image": IMAGES, "class": CLASSES, "group": CLASSES, **change})
    with pytest.raises(DataError, match=message):
        EpisodeStore.open(written(batch, tmp_path))


def test_no_rows(tmp_path: Path) -> None:
    batch = pa.record_batch({"image": IMAGES, "class": CLASSES, "group": CLASSES}).slice(0, 0)
    with pytest.raises(DataError, match="it has no rows"):
        EpisodeStore.open(written(batch, tmp_path))


def test_indices_that_lead_outside(tmp_path: Path) -> None:
    """Arrow trusts them; reading such names would read other memory."""
    batch = pa.record_batch({"image": IMAGES, "class": CLASSES, "group": CLASSES})
    path = written(batch, tmp_path)
    data = path.read_bytes()
    indices = np.array([0, 1], np.int32).tobytes()
    assert data.count(indices) >= 2
    path.write_bytes(data.replace(indices, np.array([0, 10**9], np.int32).tobytes()))
    with pytest.raises(DataError, match="damaged or incomplete"):
        EpisodeStore.open(path)


def written(batch: pa.RecordBatch, folder: Path) -> Path:
    batch = batch.replace_schema_metadata({"distmeta.schema": "1", "distmeta.sha256": ""})
    path = folder / "store.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return path
