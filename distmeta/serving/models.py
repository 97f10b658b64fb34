"""Adapted models of a service: kept in Ray's object store by one actor, so that any replica answers for them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from distmeta.adaptations import Support
from distmeta.runs.inference import AdaptedModel, MetaLearner


@dataclass(frozen=True)
class PackedModel:
    """An adapted model without its learner.

    Attributes:
        adapted: what the task changed, arrays.
        support: inputs of the support set, where their statistics count.
        ways: of the support set.
        classes: what its classes stand for; ``None`` where there are none.
    """

    adapted: Any
    support: Mapping[str, np.ndarray] | None
    ways: int | None
    classes: list[Any] | None

    @classmethod
    def of(cls, model: AdaptedModel, classes: list[Any] | None) -> PackedModel:
        """A model as it is kept."""
        adapted, support = model.solution("support")
        data = None if support is None else {name: value.cpu().numpy() for name, value in support.data.items()}
        return cls(tree_map(_array, adapted), data, None if support is None else support.ways, classes)

    def on(self, learner: MetaLearner) -> AdaptedModel:
        """The model again."""
        device = learner.device
        support = None
        if self.support is not None:
            data = {name: torch.from_numpy(value.copy()).to(device) for name, value in self.support.items()}
            support = Support(data, self.ways)

        def tensor(value: Any) -> Any:
            return torch.from_numpy(value.copy()).to(device) if isinstance(value, np.ndarray) else value

        return AdaptedModel(learner, support, tree_map(tensor, self.adapted))

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return sum(leaf.nbytes for leaf in tree_leaves((self.adapted, self.support)) if isinstance(leaf, np.ndarray))


@dataclass
class _Kept:
    ref: Any
    nbytes: int
    used: float


@ray.remote(num_cpus=0)
class ModelStore:
    """Owns the models, so that they outlive the replica that made them; also adds up what replicas count.

    Args:
        models: kept at most.
        nbytes: of all of them.
        ttl: seconds after its last use after which one is forgotten.
    """

    def __init__(self, models: int, nbytes: int, ttl: float) -> None:
        self._models, self._bytes, self._ttl = models, nbytes, ttl
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the one that was used last at the end
        self._used = 0
        self._counts: dict[str, dict[str, float]] = {}

    def keep(self, models: Mapping[str, PackedModel]) -> None:
        """Keep models; others that were not used for longest make room."""
        self._forget()
        for name, model in models.items():
            nbytes = model.nbytes
            self._kept[name] = _Kept(ray.put(model), nbytes, time.monotonic())
            self._used += nbytes
        while len(self._kept) > 1 and (len(self._kept) > self._models or self._used > self._bytes):
            self._drop(next(iter(self._kept)))

    def find(self, name: str) -> Any:
        """Where a model is, in a list; ``None`` where it is not kept."""
        self._forget()
        if name not in self._kept:
            return None
        self._use(name)
        return [self._kept[name].ref]

    def refresh(self, held: Sequence[str], used: Sequence[str]) -> list[str]:
        """Which models that a replica has at hand are kept no more.

        Args:
            held: models that it has.
            used: those that it has answered with since it asked last, the last one at the end.
        """
        for name in used:
            if name in self._kept:
                self._use(name)
        self._forget()
        return [name for name in held if name not in self._kept]

    def forget(self, name: str) -> bool:
        """Forget a model; whether there was one."""
        there = name in self._kept
        if there:
            self._drop(name)
        return there

    def count(self, replica: str, counts: Mapping[str, float]) -> dict[str, float]:
        """Take what a replica has counted since it began; gives the sums of all, and what is kept."""
        self._forget()
        self._counts[replica] = dict(counts)
        total: dict[str, float] = {}
        for each in self._counts.values():
            for name, value in each.items():
                total[name] = total.get(name, 0.0) + value
        return {**total, "models": float(len(self._kept)), "models_bytes": float(self._used)}

    def _forget(self) -> None:
        limit = time.monotonic() - self._ttl
        while self._kept and next(iter(self._kept.values())).used < limit:
            self._drop(next(iter(self._kept)))

    def _use(self, name: str) -> None:
        self._kept[name].used = time.monotonic()
        self._kept.move_to_end(name)

    def _drop(self, name: str) -> None:
        self._used -= self._kept.pop(name).nbytes


def _array(leaf: Any) -> Any:
    return leaf.detach().cpu().numpy() if isinstance(leaf, Tensor) else leaf
