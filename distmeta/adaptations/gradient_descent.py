"""Adaptation by gradient descent: MAML's inner loop, on all parameters, on the head, or on a pattern of names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distmeta.adaptations.base import Batch, Params, Support, inner_gradient, module_parameters, trajectory
from distmeta.adaptations.inner_optimizers import SGD, Adam, InnerOptimizer, Momentum
from distmeta.adaptations.options import GradientDescentOptions
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import MODEL, Meta
from distmeta.core.philox import Purpose, uniform, words
from distmeta.core.records import inputs_of
from distmeta.errors import ConfigError
from distmeta.models.base import Network
from distmeta.objectives import Objective, open_objective

RATES = "rates/"
"""Prefix of learned inner rates in a :data:`~distmeta.core.layout.Meta`."""

DRAWN = 2**18
"""Rates that are drawn at a time."""


class GradientDescent:
    """``K`` steps of ``params <- params - rate * direction(grad loss(params, support))`` from the meta-parameters.

    ``adapt`` says which parameters a task changes; the others keep their meta-learned values. ``learned_rates`` makes
    the rate a meta-parameter of its own, one for each tensor or one for each element (Meta-SGD); its outer learning
    rate is ``outer.lr_meta``. The inner optimizer starts afresh in every task. ``inner_objective`` makes the inner loss
    another one than that of the query set.

    Sources: Finn, Abbeel, Levine, ICML 2017 (MAML, equation 1); Raghu et al., ICLR 2020 (ANIL, ``adapt: head``);
    Li et al. 2017 (Meta-SGD, equation 2, ``learned_rates: per_element``).
    """

    Options: ClassVar[type[AdaptationOptions]] = GradientDescentOptions
    iterative: ClassVar[bool] = Options.iterative
    needs_head: ClassVar[bool] = Options.needs_head
    needs_classes: ClassVar[bool] = Options.needs_classes
    takes_weights: ClassVar[bool] = True

    def __init__(self, options: GradientDescentOptions, network: Network, objective: Objective) -> None:
        self.options = options
        self.network = network
        self.objective = objective
        own = options.inner_objective
        self.inner_objective = objective if own is None else open_objective(own, "algorithm.inner_objective")
        self.names = _select(options, network)
        self.optimizer = _optimizer(options)

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Learned rates ``rates/NAME``: scalars or the parameter's shape, constant or uniform in the range."""
        if self.options.learned_rates == "none":
            return {}
        rate = self.options.inner_lr
        low, high = rate if isinstance(rate, tuple) else (rate, rate)
        extras = {}
        for place, name in enumerate(self.names):
            parameter = self.network.parameters[name]
            shape = parameter.shape if self.options.learned_rates == "per_element" else ()
            if low == high:
                extras[RATES + name] = torch.full(shape, low).to(parameter)
            else:
                extras[RATES + name] = (low + (high - low) * _draws(seed, place, shape)).clamp(max=high).to(parameter)
        return extras

    def init(self, meta: Meta) -> tuple[Params, Any]:
        """The adapted names' meta-parameters, and a fresh optimizer state."""
        params = {name: meta[MODEL + name] for name in self.names}
        return params, self.optimizer.init(params)

    def loss(self, params: Params, meta: Meta, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss of these examples, and their outputs."""
        outputs = self.predict(meta, params, batch)
        return self.inner_objective.loss(outputs, batch.data), outputs

    def update(self, params: Params, state: Any, gradient: Params, meta: Meta, step: int) -> tuple[Params, Any]:
        """One step of the inner optimizer."""
        direction, state = self.optimizer.direction(gradient, state, step)
        return {name: value - self._rate(meta, name) * direction[name] for name, value in params.items()}, state

    def adapt(self, meta: Meta, support: Support, steps: int | None) -> Params:
        """The parameters after ``steps`` steps."""
        assert steps is not None
        for params in trajectory(self, meta, support, steps):
            adapted = params
        return adapted

    def descend(self, meta: Meta, support: Support, steps: int) -> Params:
        """The same for use alone: updates write to one copy of the parameters."""
        params, state = self.init(meta)
        params = {name: value.clone() for name, value in params.items()}
        scratch = _scratch(params.values())
        for step in range(steps):
            gradient = inner_gradient(self, params, meta, support.step(step))
            direction, state = self.optimizer.direction(gradient, state, step)
            for name, value in params.items():
                change = scratch[value.dtype][: value.numel()].view(value.shape)
                value.sub_(torch.mul(direction[name], self._rate(meta, name), out=change))
            del gradient, direction  # before the next ones are computed
        return params

    def _rate(self, meta: Meta, name: str) -> float | Tensor:
        """The inner rate of a parameter."""
        rate = self.options.inner_lr
        if self.options.learned_rates != "none":
            return meta[RATES + name]
        assert not isinstance(rate, tuple)
        return rate

    def predict(self, meta: Meta, adapted: Params, batch: Batch) -> Tensor:
        """The network's outputs with the adapted parameters."""
        parameters = {**module_parameters(meta), **adapted}
        return self.network(parameters, inputs_of(batch.data), key=batch.key, draw=batch.draw)

    def predict_inductive(self, meta: Meta, adapted: Params, support: Support, batch: Batch) -> Tensor:
        """The network's outputs, normalised with the support set's statistics under the adapted parameters."""
        parameters = {**module_parameters(meta), **adapted}
        return self.network.with_support_statistics(parameters, inputs_of(support.data), inputs_of(batch.data))


def _draws(seed: int, place: int, shape: Sequence[int]) -> Tensor:
    """Numbers uniform in [0, 1) for the rates of one parameter, from a stream that nothing else draws from."""
    count = math.prod(shape)
    rows = range(place << 32, (place << 32) + -(-count // DRAWN))  # drawn one by one, which bounds memory
    drawn = [uniform(words(seed, "train", [row], Purpose.RATES, DRAWN)).astype(np.float32) for row in rows]
    return torch.from_numpy(np.concatenate(drawn).reshape(-1)[:count]).view(tuple(shape))


def _scratch(params: Iterable[Tensor]) -> dict[torch.dtype, Tensor]:
    """Room for a tensor of the size of any of these, by type."""
    largest: dict[torch.dtype, Tensor] = {}
    for value in params:
        if value.dtype not in largest or value.numel() > largest[value.dtype].numel():
            largest[value.dtype] = value
    return {dtype: torch.empty_like(value).flatten() for dtype, value in largest.items()}


def _optimizer(options: GradientDescentOptions) -> InnerOptimizer:
    if options.inner_optimizer == "adam":
        return Adam(options.inner_betas, options.inner_eps)
    if options.inner_optimizer == "momentum":
        return Momentum(options.inner_momentum)
    return SGD()


def _select(options: GradientDescentOptions, network: Network) -> tuple[str, ...]:
    """The parameter names that a task changes, sorted."""
    names, adapt = sorted(network.parameters), options.adapt
    if adapt == "all":
        return tuple(names)
    if adapt == "head":
        return tuple(sorted(_head(options.head, network)))
    patterns = [adapt] if isinstance(adapt, str) else list(adapt)
    chosen = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
    if not chosen:
        raise ConfigError(
            f"algorithm.adapt = {adapt!r} matches no trainable parameter of the model; there are {', '.join(names)}"
        )
    return chosen


def _head(named: str | None, network: Network) -> tuple[str, ...]:
    """The parameter names of the head."""
    head = network.head if named is None else network.names_below(named)
    if head:
        return head
    layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in network.parameters))
    if named is not None:
        raise ConfigError(f"algorithm.head = {named} is no submodule with trainable parameters; there are {layers}")
    raise ConfigError(
        "algorithm.adapt = head: the model's outputs do not come from one trainable layer; name the head with "
        f"algorithm.head, one of {layers}"
    )
