"""Recorded and compiled functions: the same operations without the cost of deciding on them again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from distmeta.core.environment import environment
from distmeta.core.hashing import content_hash
from distmeta.core.plan import Compile
from distmeta.functional.kernels.build import find_compiler, program, unavailable
from distmeta.programs.engine.kept import host, is_kept, kept
from distmeta.programs.engine.recording import Recording
from distmeta.storage.cache import cache_for

log = logging.getLogger(__name__)

Function = Callable[..., Any]

_FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"

RECORDING, COMPILED = "recording", "inductor"
"""Kinds of what is kept in the cache."""


def specialise(
    function: Function, arguments: tuple[Any, ...], how: Compile, origin: Any = None, *, sparing: bool = False
) -> Function:
    """The same function, faster, for arguments of exactly these shapes.

    ``torch.func`` decides anew about every operation in every call. ``graph`` records the operations that reach torch's
    kernels in one call, all transforms applied, and repeats these: the same bits. ``inductor`` hands the recording to
    torch's compiler, which fuses chains of elementwise operations. Recording after the transforms, rather than letting
    the compiler look at them, leaves no derivative to its judgement.

    Recordings of known origin and compiled code are made once a host, see :mod:`distmeta.programs.engine.kept`.

    Args:
        function: pure, of trees of tensors, to a tree of tensors; its control flow may depend on shapes alone.
        arguments: an example of what it will be called with.
        how: ``none`` gives the function itself.
        origin: plain values that decide the function's operations together with the shapes; ``None`` if unknown.
        sparing: that it computes some things twice so that it need not keep them; else they are computed once.
    """
    if how == "none":
        return function
    record = partial(Recording.of, function, arguments, sparing=sparing)
    if origin is None:
        recording = record()
    else:
        recording = kept(RECORDING, recorded_by(origin, arguments), record, Recording.dump, Recording.load)
    if how == "graph":
        return recording.on_trees()
    return recording.on_trees(_compile(recording, record, tree_leaves(arguments)))


def is_recorded(origin: Any, arguments: Any) -> bool:
    """Whether this host has the recording of a function of this origin."""
    return origin is not None and is_kept(RECORDING, recorded_by(origin, arguments))


def recorded_by(origin: Any, arguments: Any) -> list[Any]:
    """What decides a recording, as plain values."""
    leaves, structure = tree_flatten(arguments)
    return [origin, str(structure), [_like(leaf) for leaf in leaves]]


def _like(leaf: Tensor) -> list[Any]:
    return [str(leaf.dtype), str(leaf.device), list(leaf.shape), list(leaf.stride())]


def _compile(recording: Recording, record: Callable[[], Recording], leaves: list[Tensor]) -> Function:
    """A recording's operations, compiled for one number of threads."""
    with _own_folder():
        return _compiled(recording, record, leaves)


@contextmanager
def _own_folder() -> Iterator[None]:
    """Let torch's compiler keep machine code in our cache, where the user has not chosen a folder for it.

    Its own choice is a folder in /tmp, and it writes that into the environment on many an occasion.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(_FOLDER_VARIABLE) not in (None, default_cache_dir()):
        yield
        return
    with environment({_FOLDER_VARIABLE: str(cache_for(folder="inductor"))}):
        yield


def _compiled(recording: Recording, record: Callable[[], Recording], leaves: list[Tensor]) -> Function:
    from torch import _inductor  # starts a good part of torch, which runs without it need not wait for
    from torch._inductor.standalone_compile import AOTCompiledArtifact

    def graph() -> Any:
        return (recording if recording.graph is not None else record()).graph

    if any(leaf.is_cuda for leaf in leaves):
        run = _inductor.compile(graph(), [*leaves], options={"triton.cudagraphs": True})
        # A CUDA graph writes its results to the same memory in every call.
        return lambda *given: tree_map(torch.clone, list(run(*given)))
    missing = unavailable()
    own: dict[str, Any] = {} if missing else {"cpp.cxx": (None, program())}  # the compiler of the kernels
    constants = [[name, content_hash(value)] for name, value in sorted(recording.constants.items())]
    # The compiler's own settings may come from the environment.
    settings = [torch.get_num_threads(), _inductor.config.get_hash().hex(), host(), missing or find_compiler().version]
    parts = [*settings, recording.digest, constants, [_like(leaf) for leaf in leaves]]

    def compiled() -> Any:
        options = {"config_patches": own}
        return _mending(lambda: _inductor.standalone_compile(graph(), [*leaves], options=options, aot=True))

    def loaded(content: bytes) -> Any:
        # With the settings that it was compiled with: by them the compiler finds its machine code on this host.
        with _inductor.config.patch(own):
            return AOTCompiledArtifact.deserialize(content)

    return cast(Function, kept(COMPILED, parts, compiled, lambda made: made.serialize(), loaded))


def _mending(compile_: Callable[[], Any]) -> Any:
    """What is compiled; libraries that cannot be loaded, half-written by a process that was killed, are made again."""
    removed: set[Path] = set()
    while True:
        try:
            return compile_()
        except Exception as error:
            damaged = _unloadable(error)
            if damaged is None or damaged in removed:
                raise
            log.debug("made again: %s", error)
            damaged.unlink(missing_ok=True)
            removed.add(damaged)


def _unloadable(error: BaseException | None) -> Path | None:
    """The library in the compiler's folder whose loading failed."""
    folder = Path(os.environ[_FOLDER_VARIABLE])
    while error is not None:
        if isinstance(error, ImportError) and error.path and folder in Path(error.path).parents:
            return Path(error.path)
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return None
