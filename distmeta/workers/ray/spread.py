"""Spreads calls of one function over workers of a Ray cluster; results come in the order of their arguments."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.config.schema import Config
from distmeta.errors import ClusterError, DistmetaError
from distmeta.workers.base import Check
from distmeta.workers.bundle import modules_of, unpack_modules
from distmeta.workers.ray.cluster import Cluster
from distmeta.workers.ray.worker import view

CALLS_EACH = 3
"""Calls that a worker has before it, one of them being computed."""

REPLACEMENTS = 5
"""Times that a worker is started again where its process dies, and that a call is repeated."""

WAIT = 0.5
"""Seconds between looks at whether to end."""


@ray.remote
class _Caller:
    """Calls the function in a process of its own."""

    def __init__(self) -> None:
        self._function: Callable[[Any], Any] | None = None

    def call(self, given: Sequence[Any], argument: Any) -> Any:
        """The function's result.

        Args:
            given: where modules and function are. The constructor does not get them: what it gets from the object
                store, Ray does not promise to have for a restart.
            argument: of the function.
        """
        if self._function is None:
            modules: Mapping[str, bytes]
            modules, function = ray.get(list(given))
            unpack_modules(modules)
            self._function = pickle.loads(function)
        assert self._function is not None
        return _sent(self._function(_received(argument)))


def spread(
    config: Config, function: Callable[[Any], Any], arguments: Iterable[Any], check: Check = lambda: None
) -> Iterator[Any]:
    """``function(argument)`` of every argument, computed by the workers that ``config.cluster`` asks for.

    A worker whose process dies is started again, and its calls are repeated. Arguments are taken as workers get free.

    Args:
        config: of the run.
        function: can be pickled.
        arguments: trees of tensors and plain values.
        check: raises when the work should end.

    Raises:
        ClusterError: no cluster at the address, too few resources, or workers that keep dying.
        DistmetaError: whatever of this kind the function raises.
    """
    cluster = Cluster(config)
    callers: list[Any] = []
    try:
        need = {"num_cpus": cluster.need["CPU"], "num_gpus": cluster.need["GPU"]}
        given = [ray.put(modules_of(config)), ray.put(pickle.dumps(function))]
        options = {**need, "max_restarts": REPLACEMENTS, "max_task_retries": REPLACEMENTS}
        hired: Any = _Caller  # Ray's decorator adds to the class
        callers += [hired.options(**options).remote() for _ in range(max(1, cluster.wanted))]
        yield from _in_order(callers, given, iter(arguments), check)
    finally:
        for caller in callers:
            ray.kill(caller)
        cluster.close()


def _in_order(callers: list[Any], given: Sequence[Any], arguments: Iterator[Any], check: Check) -> Iterator[Any]:
    """Results as their turn comes; each worker has a few calls before it."""
    waiting: deque[Any] = deque()
    busy: dict[Any, int] = {}
    load = dict.fromkeys(range(len(callers)), 0)
    more = True
    while more or waiting:
        while more and len(waiting) < 2 * CALLS_EACH * len(callers) and min(load.values()) < CALLS_EACH:
            caller = min(load, key=load.__getitem__)
            try:
                argument = next(arguments)
            except StopIteration:
                more = False
                break
            ref = callers[caller].call.remote(given, _sent(argument))
            waiting.append(ref)
            busy[ref] = caller
            load[caller] += 1
        if not waiting:
            break
        check()
        done, _ = ray.wait([*busy] or [waiting[0]], num_returns=1, timeout=WAIT, fetch_local=False)
        for ref in done:
            if ref in busy:
                load[busy.pop(ref)] -= 1
        while waiting and waiting[0] not in busy:
            yield _result(waiting.popleft())


def _result(ref: Any) -> Any:
    try:
        return _received(ray.get(ref))
    except RayTaskError as error:
        if isinstance(error.cause, DistmetaError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise ClusterError(
            f"a worker's process died {REPLACEMENTS + 1} times ({str(error).splitlines()[0]}); see whether its memory "
            "suffices, or use fewer workers"
        ) from None


def _sent(tree: Any) -> Any:
    """Tensors as arrays, which Ray sends and reads without a copy."""
    return tree_map(lambda leaf: leaf.cpu().numpy() if isinstance(leaf, Tensor) else leaf, tree)


def _received(tree: Any) -> Any:
    return tree_map(lambda leaf: _tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def _tensor(array: np.ndarray) -> Tensor:
    return view(array) if array.size else torch.from_numpy(array.copy())
