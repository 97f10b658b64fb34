"""What a meta-step is in theory: the user's module in float64, one task at a time, by ``torch.autograd.grad`` alone.

Nothing of the package computes here; only the tasks are sampled by it, and dropout masks are drawn by it, since both
are its definitions.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from distmeta.config.schema import Config
from distmeta.core.philox import Purpose, keys
from distmeta.core.records import Split
from distmeta.functional.dropout import KeyedDropout
from distmeta.tasks import open_family

Parameters = Mapping[str, Tensor]


def freshly_built(config: Config) -> nn.Module:
    """The user's module as its factory gives it, in float32."""
    kind = config.model.kind.removeprefix("module:")
    module_name, _, factory_name = kind.rpartition(".")
    factory = getattr(importlib.import_module(module_name), factory_name)
    arguments = {}
    if "outputs" in inspect.signature(factory).parameters:
        arguments["outputs"] = getattr(config.tasks, "ways", 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        module: nn.Module = factory(**arguments)
    return module


def with_parameters(own: nn.Module, parameters: Parameters) -> nn.Module:
    """The module, its parameters replaced by these wherever they stand in it."""
    values = {id(parameter): parameters[name] for name, parameter in own.named_parameters() if name in parameters}
    for layer in own.modules():
        for name, parameter in layer._parameters.items():
            if id(parameter) in values:
                layer._parameters[name] = values[id(parameter)]  # type: ignore[assignment]
        if isinstance(layer, nn.RNNBase):
            layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
    return own


@dataclass(frozen=True)
class Case:
    """One configuration's module and tasks in float64."""

    config: Config

    def __post_init__(self) -> None:
        module = self._build()
        object.__setattr__(self, "module", module)
        initial = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
        object.__setattr__(self, "initial", initial)

    module: nn.Module = None  # type: ignore[assignment]
    initial: Parameters = None  # type: ignore[assignment]

    def gradient(self, ids: Sequence[int], uses_dropout: bool = False) -> dict[str, Tensor]:
        """Sum over training tasks of the gradient of the query loss with respect to the initial parameters."""
        total = {name: torch.zeros_like(value) for name, value in self.initial.items()}
        steps = self.config.algorithm.inner_steps  # type: ignore[attr-defined]
        first_order = self.config.algorithm.estimator == "first_order"
        for number, task in enumerate(self._tasks("train", ids)):
            key = None
            if uses_dropout:
                words = keys(self.config.seed, "train", [ids[number]], Purpose.DROPOUT)
                key = torch.from_numpy(words)[0]
            meta = {name: value.clone().requires_grad_() for name, value in self.initial.items()}
            adapted = self._adapt(meta, task, steps, key, second_order=not first_order)[-1]
            loss = self._loss(self._run(adapted, task.query_x, key, steps), task.query_y)
            gradients = torch.autograd.grad(loss, list(meta.values()), allow_unused=True)
            for name, gradient in zip(meta, gradients, strict=True):
                total[name] += 0 if gradient is None else gradient
        return total

    def losses(self, split: Split, ids: Sequence[int]) -> Tensor:
        """Each task's query loss after adaptation, (T,)."""
        return torch.stack([self._loss(outputs, y) for outputs, y in self._adapted(split, ids)])

    def inductive_hits(self, split: Split, ids: Sequence[int]) -> Tensor:
        """Each task's accuracy where batch norms normalise the query by the support's statistics, (T,)."""
        hits = []
        for task in self._tasks(split, ids):
            adapted = self._evaluated(task)
            own = with_parameters(self._build(), adapted)
            with _statistics_of_next_call(own):
                own(task.support_x.clone())
            hits.append((own(task.query_x.clone()).argmax(-1) == task.query_y).double().mean())
        return torch.stack(hits)

    def hits(self, split: Split, ids: Sequence[int]) -> Tensor:
        """Each task's accuracy after adaptation, (T,)."""
        return torch.stack([(outputs.argmax(-1) == y).double().mean() for outputs, y in self._adapted(split, ids)])

    def _adapted(self, split: Split, ids: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for task in self._tasks(split, ids):
            yield self._run(self._evaluated(task), task.query_x, None, 0).detach(), task.query_y

    def _evaluated(self, task: _Task) -> Parameters:
        steps = self.config.evaluation.inner_steps
        assert steps is not None
        meta = {name: value.clone().requires_grad_() for name, value in self.initial.items()}
        adapted = self._adapt(meta, task, steps, None, second_order=False)[-1]
        # Some modules differentiate by their parameters in forward.
        return {name: value.detach().requires_grad_() for name, value in adapted.items()}

    def _adapt(
        self, meta: Parameters, task: _Task, steps: int, key: Tensor | None, *, second_order: bool
    ) -> list[Parameters]:
        states = [meta]
        for step in range(steps):
            params = states[-1]
            loss = self._loss(self._run(params, task.support_x, key, step), task.support_y)
            gradients = torch.autograd.grad(
                loss, list(params.values()), create_graph=second_order, retain_graph=True, allow_unused=True
            )
            rate = self.config.algorithm.inner_lr  # type: ignore[attr-defined]
            chosen = self._adapts()
            moved = {
                name: value if gradient is None or name not in chosen else value - rate * gradient
                for (name, value), gradient in zip(params.items(), gradients, strict=True)
            }
            states.append(moved)
        return states

    def _adapts(self) -> Sequence[str]:
        adapt = self.config.algorithm.adapt  # type: ignore[attr-defined]
        return list(self.initial) if adapt == "all" else [adapt] if isinstance(adapt, str) else adapt

    def _run(self, parameters: Parameters, inputs: Tensor, key: Tensor | None, draw: int) -> Tensor:
        dropout = nullcontext() if key is None and not self._drops() else KeyedDropout(key, draw)
        with sdpa_kernel(SDPBackend.MATH), dropout:
            # Not a copy: what a closure of the module refers to would stay behind.
            return with_parameters(self._build(), parameters)(inputs.clone())  # type: ignore[no-any-return]

    def _build(self) -> nn.Module:
        return freshly_built(self.config).double()

    def _drops(self) -> bool:
        return any("Dropout" in type(layer).__name__ for layer in self.module.modules())

    def _loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point():
            return (outputs - y).square().mean()
        return nn.functional.cross_entropy(outputs, y)

    def _tasks(self, split: Split, ids: Sequence[int]) -> Iterator[_Task]:
        batch = open_family(self.config, torch.device("cpu")).sample(split, ids)
        for t in range(len(ids)):
            parts: list[Any] = [batch.support["x"], batch.support["y"], batch.query["x"], batch.query["y"]]
            yield _Task(*(part[t].double() if part.is_floating_point() else part[t] for part in parts))


@dataclass(frozen=True)
class _Task:
    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


@contextmanager
def _statistics_of_next_call(module: nn.Module) -> Iterator[None]:
    """Batch norms in training mode remember what they see within the block, and normalise by it after the block.

    The n-th call of a layer uses what its n-th call within the block saw.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    norms = [layer for layer in norms if layer.training or layer.running_mean is None]
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in norms}

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        dims = [dim for dim in range(given[0].dim()) if dim != 1]
        seen[layer].append((given[0].mean(dims).detach(), given[0].var(dims, correction=0).detach()))

    def show(layer: Any, given: tuple[Tensor, ...]) -> None:
        layer.running_mean, layer.running_var = seen[layer].pop(0)

    hooks = [layer.register_forward_pre_hook(look) for layer in norms]
    yield
    for hook in hooks:
        hook.remove()
    for layer in norms:
        layer.eval()
        layer.track_running_stats = True
        layer.register_forward_pre_hook(show)
