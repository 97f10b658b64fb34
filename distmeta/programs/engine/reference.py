"""The slow and plain way to meta-gradients and losses, which the fast ways are held against.

It shares the sampled tasks and the algorithm's formulas with them, and nothing else: the user's own module, freshly
built and neither converted nor copied, ``torch.func.functional_call``, plain ``torch.autograd``, one task after the
other, float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from distmeta.adaptations.base import Batch, Iterative, Support, Task
from distmeta.adaptations.gradients import transforms
from distmeta.core.layout import Layout, Meta
from distmeta.core.records import Data, Inputs
from distmeta.functional.dropout import KeyedDropout
from distmeta.functional.forward import forward
from distmeta.functional.hidden_state import kept
from distmeta.functional.inputs import map_inputs
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.engine.curvature import hides_curvature


def one_task(tree: Mapping[str, Any], ways: int | None, steps: int | None) -> Task:
    """One task as adaptations see it, from its tree of tensors."""
    key = tree.get("key")
    # The draw after those of the support set, whose masks the query set must not share.
    after = 1 if steps is None else steps
    if "episodes" in tree:
        support = Support(tree["episodes"], key=key, by_step=True)
    else:
        support = Support(tree["support"], ways, tree.get("batches"), key)
    return Task(support, Batch(tree["query"], key, after, weights=tree.get("weights")))


class OwnModule:
    """A user's module as it is, to be called as a :class:`~distmeta.functional.module.FunctionalModule`.

    Args:
        module: turned to ``dtype`` in place.
        dtype: floating-point type of everything.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._module = module.to(dtype=dtype)

    def __call__(
        self, parameters: Mapping[str, Tensor], inputs: Inputs, *, key: Tensor | None = None, draw: int = 0
    ) -> Tensor:
        """The module's outputs, as :class:`~distmeta.functional.module.FunctionalModule` gives them."""
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        # A copy would not do: what a closure, an object or a global leads to would be the module itself.
        with kept(self._module), KeyedDropout(key, draw):
            # Some modules write their inputs, which the next step is to see as they are.
            outputs, _ = forward(self._module, {**buffers, **parameters}, map_inputs(inputs, torch.clone), tied=True)
        return cast(Tensor, outputs)


class Reference:
    """Meta-gradients and losses of a configuration by plain autograd.

    Args:
        parts: the configuration's parts, from which names are taken.
        device: where to compute.
        dtype: of the whole computation.
    """

    def __init__(self, parts: Assembly, device: torch.device, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype
        self._parts = parts.on(OwnModule(parts.build().to(device), dtype))

    def gradient(self, meta: Meta, tasks: Any, count: int, ways: int | None, steps: int | None) -> Tensor:
        """Sum of the tasks' meta-gradients (P,), by the estimator's own definition.

        Args:
            meta: meta-parameters of any floating-point type, on the device of the tasks.
            tasks: tree of tensors with a leading dimension of ``count`` tasks.
            count: number of tasks.
            ways: classes of a task, in families that have them.
            steps: inner steps, where there are any.
        """
        given, layout = self._given(meta), Layout.of(meta)
        total = torch.zeros(layout.size, dtype=self.dtype, device=next(iter(given.values())).device)
        with torch.no_grad(), transforms(False):
            for t in range(count):
                found, _ = self._parts.estimator.gradient(given, self._task(tasks, t, ways, steps), steps)
                total += layout.flatten(found)
        return total

    def losses(
        self,
        meta: Meta,
        tasks: Any,
        count: int,
        ways: int | None,
        steps: int | None,
        loss: Callable[[Tensor, Data], Tensor] | None = None,
    ) -> Tensor:
        """(count,) query losses after adaptation, the objective's or others; arguments as in :meth:`gradient`."""
        given, adaptation, loss = self._given(meta), self._parts.adaptation, loss or self._parts.objective.loss
        losses = []
        with torch.no_grad(), transforms(False):
            for t in range(count):
                task = self._task(tasks, t, ways, steps)
                adapted = adaptation.adapt(given, task.support, steps)
                outputs = adaptation.predict(given, adapted, task.query)
                losses.append(loss(outputs, task.query.data).detach())
        return torch.stack(losses)

    def hides_curvature(self, meta: Meta, tasks: Any, ways: int | None, steps: int | None) -> str:
        """Which custom functions of the model lose second derivatives silently; empty where none does."""
        with transforms(False):
            support = self._task(tasks, 0, ways, steps).support
            return hides_curvature(cast(Iterative, self._parts.adaptation), self._given(meta), support.step(0))

    def _given(self, meta: Meta) -> dict[str, Tensor]:
        return {name: self._cast(value) for name, value in meta.items()}

    def _task(self, tasks: Any, t: int, ways: int | None, steps: int | None) -> Task:
        return one_task(tree_map(lambda value: self._cast(value[t]), tasks), ways, steps)

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value
