"""Settings of the process for a CUDA device, which can be set without one: set, then put back."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from distmeta.errors import ConfigError
from distmeta.programs.cuda import memory_explained, reproducible

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def settings() -> dict[str, Any]:
    return {
        "products": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "cudnn": torch.backends.cudnn.deterministic,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "workspace": os.environ.get(WORKSPACE),
    }


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_set_and_put_back(monkeypatch: pytest.MonkeyPatch, workspace: str | None) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    if workspace:
        monkeypatch.setenv(WORKSPACE, workspace)
    before = settings()
    put_back = reproducible()
    try:
        assert settings() == {
            "products": "highest",
            "tf32": False,
            "cudnn": True,
            "algorithms": True,
            "warn": True,
            "fill": False,
            "workspace": workspace or ":4096:8",
        }
    finally:
        put_back()
    assert settings() == before


@pytest.mark.parametrize(("chunk", "tasks"), [(8, "8 tasks"), (None, "a whole shard's tasks")])
def test_a_device_without_memory_is_one_message(chunk: int | None, tasks: str) -> None:
    said = rf"what {tasks} at once take \(CUDA out of memory\).*engine\.chunk"
    with pytest.raises(ConfigError, match=said), memory_explained(chunk):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")
