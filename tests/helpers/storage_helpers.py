"""Storage that is not on a disk."""

from __future__ import annotations

import uuid

import fsspec
import pyarrow.fs

from distmeta.storage.files import Storage


def remote(kind: str) -> Storage:
    path = f"bucket-{uuid.uuid4().hex}/run"
    if kind == "mock":
        return Storage(pyarrow.fs._MockFileSystem(), path, f"mock://{path}")
    memory = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("memory")))
    return Storage(memory, path, f"memory://{path}")
