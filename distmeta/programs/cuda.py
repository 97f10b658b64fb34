"""Settings of the process under which a CUDA device gives the same bits in every run, and float32 is float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from distmeta.errors import ConfigError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_DETERMINISTIC: Any = torch.utils.deterministic  # its attribute is a property of the module


def reproducible() -> Callable[[], None]:
    """Set them; gives what puts the earlier ones back.

    Float32 products are not rounded to TF32, which would make results depend on the card's generation. Operations that
    add in the order in which threads arrive are replaced by ones with a fixed order; torch warns of one that has none.
    """
    back = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _DETERMINISTIC.fill_uninitialized_memory,
    )
    # Read by cuBLAS when it starts: its products then use memory of a fixed size, and so a fixed order of additions.
    own = _WORKSPACE not in os.environ
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    _set("highest", False, True, False, True, True, False)

    def put_back() -> None:
        _set(*back)
        if own:
            os.environ.pop(_WORKSPACE, None)

    return put_back


def allow_tf32(allowed: bool) -> None:
    """Round float32 products to TF32 from now on, or not."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def _set(
    products: str, cudnn_tf32: bool, cudnn: bool, benchmark: bool, algorithms: bool, warn_only: bool, fill: bool
) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = cudnn_tf32
    torch.backends.cudnn.deterministic = cudnn
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    _DETERMINISTIC.fill_uninitialized_memory = fill


@contextmanager
def memory_explained(chunk: int | None) -> Iterator[None]:
    """Turn a device's lack of memory into one clear message.

    Raises:
        ConfigError: the device has too little memory for a chunk of this many tasks.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).strip().split(". ")[0]
        tasks = "a whole shard's tasks" if chunk is None else f"{chunk} tasks"
        raise ConfigError(
            f"the device's memory does not hold what {tasks} at once take ({first}); compute fewer at once with "
            "engine.chunk (or run.tasks_per_shard), keep fewer inner steps' activations with "
            "engine.differentiation=mixed, or use a smaller model"
        ) from None
