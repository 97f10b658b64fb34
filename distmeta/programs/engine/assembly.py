"""A configuration's parts put together: network, objective, adaptation, estimator. No data, no worker."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from distmeta.adaptations import ADAPTATIONS
from distmeta.adaptations.base import module_parameters
from distmeta.config.schema import Config
from distmeta.config.sections import limits
from distmeta.core.layout import MODEL, Meta
from distmeta.core.plan import Plan
from distmeta.core.records import NO_INPUTS, InputSpec, TensorSpec, zeros_of
from distmeta.errors import ConfigError
from distmeta.estimators import ESTIMATORS
from distmeta.functional.building import build
from distmeta.functional.checks import check_outputs
from distmeta.functional.module import FunctionalModule
from distmeta.objectives import Objective, objective_name, objective_of, outputs_of
from distmeta.tasks import TASKS
from distmeta.tasks.base import TaskSpec

_INSERTED = 0x1A7E
"""Sets what an adaptation puts into a module apart from the module's own first parameters."""

_BUILDING = threading.RLock()
"""Building a network seeds torch's global random numbers, and looking at it watches them: one thread at a time."""


class Assembly:
    """The parts of one configuration.

    Raises:
        ConfigError: the model cannot be built, or does not fit the tasks or the algorithm.

    >>> from distmeta.loading import load_config
    >>> config = load_config({"tasks": {"kind": "sinusoid"}, "model": {"kind": "mlp"}, "algorithm": {"name": "maml"}})
    >>> sorted(Assembly(config).initial_meta())[0]
    'model/body.0.bias'
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = self._spec()
        _check_names(self.spec, config.tasks.kind)
        needs_head = ADAPTATIONS.options[config.algorithm.adaptation].needs_head
        self.objective = objective_of(config.tasks, self.spec.scale)
        outputs = self._numbers(self.objective)
        self._outputs = outputs if needs_head else None
        with _BUILDING:
            module, example = self.build(), zeros_of(self.inputs, 2)
            check_outputs(module, config.model, example, self._outputs)
            self.network = FunctionalModule(module, example, self.build)
        self.metric = self.objective.metrics[0]
        self.higher_is_better = self.objective.higher_is_better
        self.adaptation = ADAPTATIONS[config.algorithm.adaptation](config.algorithm, self.network, self.objective)
        inner = getattr(self.adaptation, "inner_objective", self.objective)
        if self._numbers(inner) != outputs:
            raise ConfigError(
                f"algorithm.inner_objective takes {self._numbers(inner)} outputs of the network, and "
                f"tasks.objective = {objective_name(config.tasks.objective)} takes {outputs}; use objectives of "
                "the same outputs"
            )
        for ways in self._ways():
            for each in (self.objective, inner):
                outputs_of(each, ways)
        if self.spec.weighted:
            self._check_weights(inner)
        self.estimator = ESTIMATORS[config.algorithm.estimator](config.algorithm, self.adaptation)

    def _spec(self) -> TaskSpec:
        """What the network takes and gives."""
        return TASKS[self.config.tasks.kind].spec(self.config.tasks)

    def _numbers(self, objective: Objective) -> int:
        """How many numbers a network has to give for an example."""
        return outputs_of(objective, self.spec.outputs)

    def _check_weights(self, inner: Objective) -> None:
        """Refuse what does not know padding from examples."""
        what = f"tasks.kind = {self.config.tasks.kind} has unequal tasks, whose padding has no weight"
        if self.network.uses_batch_statistics:
            raise ConfigError(
                f"{what}, but model.kind = {self.config.model.kind} normalises by the statistics of all examples, "
                "of the padding too; use a model without batch norm, or tasks of one size"
            )
        for key, part in (
            ("tasks.objective", self.objective),
            ("algorithm.inner_objective", inner),
            ("algorithm.adaptation", self.adaptation),
        ):
            if not getattr(part, "takes_weights", False):
                raise ConfigError(
                    f"{what}, but {key} ({type(part).__name__}) does not say that it heeds weights; let it, and set "
                    "takes_weights = True in its class"
                )

    def _ways(self) -> set[int]:
        """All numbers of classes that tasks may have."""
        own, held_out = getattr(self.config.tasks, "ways", None), self.config.evaluation.ways
        if own is None or not self.objective.classes:
            return set()
        return {*limits(own), held_out or self.spec.outputs}

    def build(self) -> nn.Module:
        """The configured module, newly built, as the user wrote it; with what the adaptation puts into it."""
        return build_network(self.config, self.spec, self._outputs)

    @cached_property
    def inputs(self) -> InputSpec:
        """What the network gets of an example: the tasks' inputs, where the adaptation does not say otherwise."""
        return network_inputs(self.config, self.spec)

    def on(self, network: Any, estimator: str | None = None) -> Assembly:
        """The same parts on another network, or with another estimator of the table."""
        parts, options = copy.copy(self), self.config.algorithm
        parts.adaptation = copy.copy(self.adaptation)
        parts.adaptation.network = network
        parts.estimator = ESTIMATORS[estimator or options.estimator](options, parts.adaptation)
        return parts

    def initial_meta(self) -> dict[str, Tensor]:
        """The module's initial parameters and whatever else is meta-learned, a pure function of the configuration."""
        own = {MODEL + name: value for name, value in self.network.parameters.items()}
        return {**own, **self.adaptation.extras(self.config.seed)}

    def replica(self) -> Assembly:
        """The same parts once more, for use at the same time: with layers of their own, and all tensors shared."""
        shared = (self.config, *self.network.tensors())
        return copy.deepcopy(self, {id(each): each for each in shared})

    def module_state(self, meta: Meta) -> dict[str, Tensor]:
        """The module's full state dict with these meta-parameters."""
        return self.network.state_dict(module_parameters(meta))

    def follow(self, plan: Plan) -> None:
        """Compute as the plan says: the layers' form and precision, and how the exact estimator differentiates."""
        compute = torch.bfloat16 if plan.precision == "bf16" else None
        self.network.use(None if plan.layers == "general" else plan.layers, compute)
        self.estimator.follow(plan.differentiation)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the module's parameters that nothing changes."""
        return self.network.frozen

    @property
    def notes(self) -> list[str]:
        """What a user should hear about the model: its size, frozen parameters, tied ones."""
        count = sum(value.numel() for value in self.network.parameters.values())
        notes = [f"model {self.config.model.kind}: {count:,} meta-learned parameters"]
        if self.network.frozen:
            notes.append(f"frozen, so neither adapted nor meta-learned: {', '.join(self.network.frozen)}")
        if self.network.tied:
            notes.append(f"tied, learned once: {_pairs(self.network.tied)}")
        if self.network.unsaved:
            notes.append(f"not saved with the parameters, since they are no tensors: {', '.join(self.network.unsaved)}")
        adapt = getattr(self.config.algorithm, "adapt", None)
        if adapt == "head":
            notes.append(f"a task adapts the head alone: {', '.join(self.adaptation.names)}")  # type: ignore[attr-defined]
        if adapt == "body":
            names = sorted(set(self.network.parameters) - set(self.adaptation.names))  # type: ignore[attr-defined]
            notes.append(f"a task adapts all but {', '.join(names)}")
        return notes


def network_inputs(config: Config, spec: TaskSpec) -> InputSpec:
    """What a configuration's network gets of an example."""
    own = getattr(ADAPTATIONS[config.algorithm.adaptation], "network_inputs", None)
    return spec.inputs if own is None else own(config.algorithm, spec.inputs, spec.outputs)


def build_network(config: Config, spec: TaskSpec, outputs: int | None) -> nn.Module:
    """The configured module, newly built; with what the adaptation puts into it, drawn from the seed as well.

    Args:
        config: of a run.
        spec: of its tasks.
        outputs: numbers that the network gives for one example; ``None`` for an embedding.

    Raises:
        ConfigError: as :func:`~distmeta.functional.building.build`, or the module has not what the adaptation changes.
    """
    adaptation, options = ADAPTATIONS[config.algorithm.adaptation], config.algorithm
    own = getattr(adaptation, "module_inputs", None)
    inputs = network_inputs(config, spec) if own is None else own(options, spec.inputs, spec.outputs)
    module, prepare = build(config.model, inputs, outputs, config.seed), getattr(adaptation, "prepare", None)
    if prepare is None:
        return module
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed ^ _INSERTED)
        prepared: nn.Module = prepare(options, module, spec.inputs)
    return prepared


def _check_names(spec: TaskSpec, kind: str) -> None:
    reserved = [] if isinstance(spec.inputs, TensorSpec) else [name for name in NO_INPUTS if name in spec.inputs]
    if reserved:
        raise ConfigError(
            f"tasks.kind = {kind}: an input is called {reserved[0]}, but in a task's data y holds the targets, weight "
            "what the examples weigh, and class_id their classes; give the input another name"
        )


def _pairs(tied: Mapping[str, str]) -> str:
    return ", ".join(f"{alias} = {name}" for alias, name in tied.items())
