"""The contenders of ``peers.py``: one class each, which computes sums of meta-gradients of the same tasks.

Each of them runs in processes of its own (see ``processes.py``). Tasks are sampled when a contender is built and handed
over as the same tensors to all: to distmeta by a task family that only looks them up, to its peers directly.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from distmeta.config.schema import Config
from distmeta.core.records import Split, TaskBatch
from distmeta.core.requests import Request, Start
from distmeta.functional.building import build
from distmeta.loading import load_config
from distmeta.programs import blueprint
from distmeta.tasks import TASKS, open_family
from distmeta.workers.worker import Worker, pick_device

SHARDS = 4
"""Different shards of tasks that a contender goes through over and over."""

CONV4 = {"kind": "conv4", "filters": 64}
POOLED = {"kind": "conv4", "filters": 32, "downsample": "pool"}
MLP = {"kind": "mlp", "hidden": [40, 40]}


def _case(tasks: dict[str, Any], model: dict[str, Any], rate: float, steps: int, batch: int, shard: int) -> Any:
    return {
        "tasks": tasks,
        "model": model,
        "algorithm": {"name": "maml", "inner_lr": rate, "inner_steps": steps},
        "run": {"meta_batch": batch, "tasks_per_shard": shard, "steps": 60000},
    }


def _glyphs(ways: int) -> dict[str, Any]:
    return {"kind": "glyphs", "ways": ways, "shots": 1, "queries": 1}


_PICTURES = {"kind": "module:pictures.Pictures", "ways": 5, "shots": 1, "queries": 15}
_SINUSOID = {"kind": "sinusoid", "shots": 10, "queries": 10}


CASES: dict[str, dict[str, Any]] = {
    "omniglot-5w1s": _case(_glyphs(5), CONV4, 0.4, 1, 32, 8),
    "omniglot-20w1s": _case(_glyphs(20), CONV4, 0.1, 5, 16, 4),
    "pictures-5w1s": _case(_PICTURES, POOLED, 0.01, 5, 4, 4),
    "sinusoid-1": _case(_SINUSOID, MLP, 0.01, 1, 25, 25),
    "sinusoid-5": _case(_SINUSOID, MLP, 0.01, 5, 25, 25),
}


def configure(case: Mapping[str, Any], overrides: Sequence[str], threads: int = 1) -> Config:
    """A case's configuration with the user's overrides."""
    return load_config(case, [*overrides, f"run.threads={threads}"])


def shards(config: Config) -> list[range]:
    """Ids of the tasks of every shard."""
    size = config.run.shard
    return [range(size * index, size * (index + 1)) for index in range(SHARDS)]


def plain_module(config: Config) -> nn.Module:
    """The case's network as distmeta starts it, in plain torch; batch norms use the batch's own statistics."""
    spec = TASKS[config.tasks.kind].spec(config.tasks)
    module = build(config.model, spec.inputs, spec.outputs, config.seed).train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return module


def loss_of(config: Config) -> Callable[[Tensor, Tensor], Tensor]:
    """The case's loss as torch has it."""
    return F.mse_loss if config.tasks.objective == "squared_error" else F.cross_entropy


class Ours:
    """distmeta: the worker's whole path from meta-parameters and task ids to the summed vector."""

    title: ClassVar[str] = "distmeta"
    package: ClassVar[str] = "distmeta"

    def __init__(self, case: Mapping[str, Any], overrides: Sequence[str], threads: int) -> None:
        config = configure(case, overrides, threads)
        _look_up_tasks(config)
        self._worker = Worker(config)
        self.device = self._worker.device
        self._worker.follow(self._worker.probe())
        layout, initial = self._worker.program.layout, blueprint(config).initial_meta()
        self._request = Request("gradient", Start.of(0, layout.flatten(initial).detach()))
        self._shards = shards(config)
        self._model = layout.groups()["model"]
        self._turn = 0

    def unit(self) -> int:
        """The next shard."""
        ids = self._shards[self._turn % SHARDS]
        self._turn += 1
        return self._worker.program.answer(self._request, "train", ids).tasks

    def of_task(self, task: int) -> np.ndarray[Any, Any]:
        """The task's meta-gradient of the module's parameters, sorted by name."""
        # A whole shard of the one task, since other numbers of tasks would be compiled anew.
        ids = [task] * len(self._shards[0])
        vector = self._worker.program.answer(self._request, "train", ids).vector
        return (vector.detach().cpu()[self._model] / len(ids)).numpy()


def _look_up_tasks(config: Config) -> None:
    """Make the case's task family one that samples a shard's tasks once, now, and then only looks them up."""
    device = pick_device(config.run.device)
    family = open_family(config, device)
    ready: dict[tuple[int, ...], TaskBatch] = {tuple(ids): family.sample("train", ids) for ids in shards(config)}
    sample = type(family).sample

    def look_up(self: Any, split: Split, ids: Sequence[int]) -> TaskBatch:
        found = ready.get(tuple(ids)) if split == "train" else None
        return found if found is not None else sample(self, split, ids)

    setattr(type(family), "sample", look_up)  # noqa: B010  (a plain assignment to a method is no type that mypy takes)


class Peer:
    """A peer: the same network in plain torch, and the tasks as tensors."""

    title: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, case: Mapping[str, Any], overrides: Sequence[str], threads: int) -> None:
        config = configure(case, overrides, threads)
        self.device = pick_device(config.run.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
        self.library = importlib.import_module(self.package)
        self._family = family = open_family(config, self.device)
        self.batches = [family.sample("train", ids) for ids in shards(config)]
        self.module = plain_module(config).to(self.device)
        self.loss = loss_of(config)
        self.rate: float = getattr(config.algorithm, "inner_lr", 0.0)
        self.steps: int = getattr(config.algorithm, "inner_steps", 0)
        self.parameters = dict(self.module.named_parameters())
        self._turn = 0

    def unit(self) -> int:
        """The next shard."""
        batch = self.batches[self._turn % SHARDS]
        self._turn += 1
        self.gradient(batch)
        return len(batch.ids)

    def of_task(self, task: int) -> np.ndarray[Any, Any]:
        """The task's meta-gradient, parameters sorted by name."""
        found = self.gradient(self._family.sample("train", [task]))
        return torch.cat([found[name].detach().reshape(-1) for name in sorted(found)]).cpu().numpy()

    def gradient(self, batch: TaskBatch) -> Mapping[str, Tensor]:
        """Sum of the meta-gradients of these tasks."""
        raise NotImplementedError

    def collected(self) -> Mapping[str, Tensor]:
        """What backward passes have added up; the next sum begins at nothing."""
        found = {name: value.grad for name, value in self.parameters.items() if value.grad is not None}
        for value in self.parameters.values():
            value.grad = None
        return found


def each(batch: TaskBatch) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Support inputs and targets, query inputs and targets, of one task after the other."""
    return zip(batch.support["x"], batch.support["y"], batch.query["x"], batch.query["y"], strict=True)


class TorchOpt(Peer):
    """TorchOpt's differentiable optimizer ``MetaSGD``, task by task, as in its MAML examples.

    The functional ``torchopt.FuncOptimizer(torchopt.sgd(...))``, task by task, was at most as fast.
    """

    title = "TorchOpt MetaSGD"
    package = "torchopt"

    def gradient(self, batch: TaskBatch) -> Mapping[str, Tensor]:
        """A backward pass a task."""
        torchopt = self.library
        inner = torchopt.MetaSGD(self.module, lr=self.rate, moment_requires_grad=False)
        weights = torchopt.extract_state_dict(self.module, by="reference")
        optimizer = torchopt.extract_state_dict(inner, by="reference")
        for x, y, query_x, query_y in each(batch):
            for _ in range(self.steps):
                inner.step(self.loss(self.module(x), y))
            torch.autograd.backward(self.loss(self.module(query_x), query_y))
            torchopt.recover_state_dict(self.module, weights)
            torchopt.recover_state_dict(inner, optimizer)
        return self.collected()


class ByHand(Peer):
    """No library: ``torch.func.vmap`` over a shard's tasks of ``grad`` of ``grad``, as one writes it by hand."""

    title = "torch.func by hand"
    package = "torch"

    def gradient(self, batch: TaskBatch) -> Mapping[str, Tensor]:
        """All tasks of the batch at once."""

        def loss(params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.loss(functional_call(self.module, dict(params), (x,)), y)

        def outer(params: Mapping[str, Tensor], x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
            for _ in range(self.steps):
                gradient = torch.func.grad(loss)(params, x, y)
                params = {name: value - self.rate * gradient[name] for name, value in params.items()}
            return loss(params, query_x, query_y)

        start = {name: value.detach() for name, value in self.parameters.items()}
        mapped = torch.func.vmap(torch.func.grad(outer), in_dims=(None, 0, 0, 0, 0))
        support, query = batch.support, batch.query
        found = mapped(start, support["x"], support["y"], query["x"], query["y"])
        return {name: value.sum(0) for name, value in found.items()}


class TorchOptVmap(Peer):
    """TorchOpt's functional ``sgd`` under ``torch.func``: ``vmap`` over a shard's tasks of ``grad`` of ``grad``."""

    title = "TorchOpt sgd, vmap"
    package = "torchopt"

    def gradient(self, batch: TaskBatch) -> Mapping[str, Tensor]:
        """All tasks of the batch at once."""
        torchopt = self.library
        sgd = torchopt.sgd(lr=self.rate)

        def loss(params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.loss(functional_call(self.module, dict(params), (x,)), y)

        def outer(params: Mapping[str, Tensor], x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
            state = sgd.init(params)
            for _ in range(self.steps):
                gradient = torch.func.grad(loss)(params, x, y)
                updates, state = sgd.update(gradient, state, params=params, inplace=False)
                params = torchopt.apply_updates(params, updates, inplace=False)
            return loss(params, query_x, query_y)

        start = {name: value.detach() for name, value in self.parameters.items()}
        mapped = torch.func.vmap(torch.func.grad(outer), in_dims=(None, 0, 0, 0, 0))
        support, query = batch.support, batch.query
        found = mapped(start, support["x"], support["y"], query["x"], query["y"])
        return {name: value.sum(0) for name, value in found.items()}


class Higher(Peer):
    """higher's ``innerloop_ctx`` with ``track_higher_grads``, task by task."""

    title = "higher"
    package = "higher"

    def gradient(self, batch: TaskBatch) -> Mapping[str, Tensor]:
        """A backward pass a task."""
        inner = torch.optim.SGD(self.module.parameters(), lr=self.rate)
        for x, y, query_x, query_y in each(batch):
            context = self.library.innerloop_ctx(
                self.module, inner, copy_initial_weights=False, track_higher_grads=True
            )
            with context as (module, optimizer):
                for _ in range(self.steps):
                    optimizer.step(self.loss(module(x), y))
                torch.autograd.backward(self.loss(module(query_x), query_y))
        return self.collected()


PEERS: tuple[type[Peer], ...] = (ByHand, TorchOpt, TorchOptVmap, Higher)


def installed(package: str) -> bool:
    """Whether a peer's package is there."""
    return importlib.util.find_spec(package) is not None


def plain_gradient(module: nn.Module, config: Config, batch: TaskBatch) -> Mapping[str, Tensor]:
    """The sum of exact meta-gradients by plain ``torch.autograd``, no library at all; the module stays as it was."""
    module = copy.deepcopy(module)
    start = dict(module.named_parameters())
    loss, rate = loss_of(config), getattr(config.algorithm, "inner_lr", 0.0)
    totals = {name: torch.zeros_like(value) for name, value in start.items()}
    for x, y, query_x, query_y in each(batch):
        params: dict[str, Tensor] = dict(start)
        for _ in range(getattr(config.algorithm, "inner_steps", 0)):
            value = loss(functional_call(module, params, (x,)), y)
            gradients = torch.autograd.grad(value, list(params.values()), create_graph=True)
            params = {name: p - rate * g for (name, p), g in zip(params.items(), gradients, strict=True)}
        value = loss(functional_call(module, params, (query_x,)), query_y)
        for name, g in zip(start, torch.autograd.grad(value, list(start.values())), strict=True):
            totals[name] += g
    return totals
