"""Activation checkpointing, taken out of a module's forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.utils.checkpoint as checkpointing

_DIRECT: ContextVar[bool] = ContextVar("direct", default=False)
_LOCK = threading.Lock()
_blocks = 0


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Within the block, in this thread, ``torch.utils.checkpoint.checkpoint`` of either kind just calls its function.

    A checkpoint computes again in the backward pass. By then a functional call has ended: the module has its own
    weights instead of the given ones, and dropout has no key, so that derivatives would be those of another function.
    The reentrant kind has no second derivatives besides. Called directly, the function gives the same outputs, all
    derivatives are right, and every transform of ``torch.func`` can pass; activations are kept instead.
    """
    _enter()
    token = _DIRECT.set(True)
    try:
        yield
    finally:
        _DIRECT.reset(token)
        _leave()


_reentrant: Any = checkpointing.CheckpointFunction
_not_reentrant: Callable[..., Any] = checkpointing._checkpoint_without_reentrant_generator


class _Reentrant:
    """What ``checkpoint`` calls with ``use_reentrant=True``."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """The function's outputs."""
        return function(*args) if _DIRECT.get() else _reentrant.apply(function, preserve, *args)


def _generator(
    function: Callable[..., Any], preserve: bool, context_fn: Callable[[], Any], *args: Any, **kwargs: Any
) -> Iterator[None]:
    """What ``checkpoint`` iterates over around its function with ``use_reentrant=False``."""
    if not _DIRECT.get():
        yield from _not_reentrant(function, preserve, context_fn, *args, **kwargs)
        return
    forward, _ = context_fn()
    with forward:
        yield


def _enter() -> None:
    global _blocks
    with _LOCK:
        _blocks += 1
        if _blocks == 1:
            _put(_Reentrant, _generator)


def _leave() -> None:
    global _blocks
    with _LOCK:
        _blocks -= 1
        if _blocks == 0:
            _put(_reentrant, _not_reentrant)


def _put(reentrant: Any, not_reentrant: Any) -> None:
    checkpointing.CheckpointFunction = reentrant  # type: ignore[misc]
    checkpointing._checkpoint_without_reentrant_generator = not_reentrant
