"""What an adaptation is, and what it sees of one task.

Everything here is about ONE task and is pure: the engine maps it over tasks with ``torch.func.vmap``, or runs it for
one task after the other. Derivatives come from :mod:`distmeta.adaptations.gradients`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from distmeta.adaptations.gradients import gradient
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import MODEL, Meta
from distmeta.core.records import Data
from distmeta.models.base import Network
from distmeta.objectives import Objective

Params = Mapping[str, Tensor]
"""The part of the parameters that a task changes, under the module's own names."""


class Batch(NamedTuple):
    """The examples that one forward pass sees.

    Attributes:
        data: named tensors (N, ...).
        key: (2,) int64 random key of the task; ``None`` switches dropout off.
        draw: which of the task's random draws this pass uses: the inner step, or the number of steps for the query.
        step: whose inner step's own parameters it uses, where there are such; ``None`` for those of the last.
        weights: (K,) of a query set, what its loss after each inner step counts; ``None``: the last alone.
    """

    data: Data
    key: Tensor | None = None
    draw: int = 0
    step: int | None = None
    weights: Tensor | None = None

    def after(self, steps: int) -> Batch:
        """The same pass after so many inner steps: with what the last of them used, or the first if there was none."""
        return self._replace(step=max(0, steps - 1))


class Support(NamedTuple):
    """What adaptation may use of one task.

    Attributes:
        data: the support set, named tensors (S, ...).
        ways: number of classes, in families that have them.
        batches: (K, b) int64, the examples that each step uses; ``None`` uses them all in every step.
        key: (2,) int64 random key of the task; ``None`` switches dropout off.
        by_step: whether ``data`` has a leading dimension of steps (K, S, ...): what each of them consumes, such as
            episodes that were rolled out with the parameters before it.
    """

    data: Data
    ways: int | None = None
    batches: Tensor | None = None
    key: Tensor | None = None
    by_step: bool = False

    def step(self, step: int) -> Batch:
        """The data that inner step ``step`` consumes."""
        if self.by_step:
            return Batch({name: value[step] for name, value in self.data.items()}, self.key, step, step)
        if self.batches is None:
            return Batch(self.data, self.key, step, step)
        chosen = self.batches[step]
        return Batch({name: value[chosen] for name, value in self.data.items()}, self.key, step, step)


class Task(NamedTuple):
    """One task: what adaptation sees, and what its result is judged on."""

    support: Support
    query: Batch


class Adaptation(Protocol):
    """How a task's solution comes from meta-parameters and a support set.

    An adaptation that puts something into the module, or runs it on other inputs than those of the tasks, has up to
    three class methods more: ``module_inputs(options, inputs, outputs)``, what the module is built for;
    ``prepare(options, module, inputs)``, the module with what is put into it; and ``network_inputs(options, inputs,
    outputs)``, what that gets.

    Attributes:
        Options: its settings under ``algorithm`` in a configuration.
        iterative: whether it is an :class:`Iterative` one.
        needs_head: whether the network ends in a head of ``outputs`` numbers, or in an embedding.
        needs_classes: whether the objective must be a classification.
        takes_weights: whether it heeds the weights of a support set's examples, of which some may be padding; left out,
            it does not, and such tasks are refused (:class:`~distmeta.tasks.base.TaskSpec`).
        objective: loss and metric of the tasks.
        network: the module that adaptation runs.
    """

    Options: ClassVar[type[AdaptationOptions]]
    iterative: ClassVar[bool]
    needs_head: ClassVar[bool]
    needs_classes: ClassVar[bool]
    objective: Objective
    network: Network

    def __init__(self, options: Any, network: Network, objective: Objective) -> None: ...

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Initial values of what is meta-learned beside the module's parameters, under ``GROUP/NAME``."""
        ...

    def adapt(self, meta: Meta, support: Support, steps: int | None) -> Any:
        """The task's solution: any tree of tensors. ``steps`` is ``None`` where there are none to take."""
        ...

    def predict(self, meta: Meta, adapted: Any, batch: Batch) -> Tensor:
        """Outputs (N, D) for these examples; batch norm uses their own statistics."""
        ...

    def predict_inductive(self, meta: Meta, adapted: Any, support: Support, batch: Batch) -> Tensor:
        """Outputs (N, D) for these examples, each normalised with the support set's statistics."""
        ...


class Iterative(Adaptation, Protocol):
    """An adaptation by steps ``g = grad loss(params); params, state = update(params, state, g)``."""

    def init(self, meta: Meta) -> tuple[Params, Any]:
        """Parameters and inner-optimizer state before the first step."""
        ...

    def loss(self, params: Params, meta: Meta, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scalar inner loss, and the outputs that it was computed from."""
        ...

    def update(self, params: Params, state: Any, gradient: Params, meta: Meta, step: int) -> tuple[Params, Any]:
        """Parameters and state after step ``step`` (0, 1, ...)."""
        ...

    def descend(self, meta: Meta, support: Support, steps: int) -> Params:
        """What :meth:`adapt` gives, to the same bits, in the memory of one set of parameters and their gradient.

        It writes to what it made itself, and so can be neither mapped nor differentiated.
        """
        ...


def module_parameters(meta: Meta) -> dict[str, Tensor]:
    """The module's parameters of ``meta``, under the module's own names."""
    return {name.removeprefix(MODEL): value for name, value in meta.items() if name.startswith(MODEL)}


def inner_gradient(adaptation: Iterative, params: Params, meta: Meta, batch: Batch) -> Params:
    """Gradient of the inner loss with respect to what the task changes."""
    found, _ = gradient(adaptation.loss, params, meta, batch)
    return dict(found)


def trajectory(adaptation: Iterative, meta: Meta, support: Support, steps: int) -> Iterator[Params]:
    """The parameters after 0, 1, ..., ``steps`` inner steps."""
    params, state = adaptation.init(meta)
    yield params
    for step in range(steps):
        direction = inner_gradient(adaptation, params, meta, support.step(step))
        params, state = adaptation.update(params, state, direction, meta, step)
        del direction  # it is as large as the parameters, and the next one comes before this name is taken again
        yield params
