"""Adaptation by gradient descent: MAML's inner loop, on all parameters, on the head, or on a pattern of names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distmeta.adaptations.base import Batch, Params, Support, inner_gradient, module_parameters, trajectory
from distmeta.adaptations.inner_optimizers import SGD, Adam, InnerOptimizer, Momentum
from distmeta.adaptations.options import GradientDescentOptions
from distmeta.adaptations.preconditioning import Preconditioner
from distmeta.adaptations.rates import Rates
from distmeta.adaptations.selection import adapted_names
from distmeta.config.sections import AdaptationOptions
from distmeta.core.layout import MODEL, Meta
from distmeta.core.records import InputSpec, inputs_of
from distmeta.errors import ConfigError
from distmeta.models.base import Network
from distmeta.models.insertions import warp
from distmeta.objectives import Objective, open_objective

NORMS = "norms/"
"""Prefix of the scales and shifts that batch norms have for each inner step, in a Meta."""


class GradientDescent:
    r"""``K`` steps of ``params <- params - rate * direction(grad loss(params, support))`` from the meta-parameters.

    ``adapt`` says which parameters a task changes; the others keep their meta-learned values. ``learned_rates`` makes
    rates meta-parameters of their own (:class:`~distmeta.adaptations.rates.Rates`), ``preconditioner`` multiplies
    gradients by learned matrices (:class:`~distmeta.adaptations.preconditioning.Preconditioner`), ``warp`` puts learned
    layers between those that a task changes; the outer learning rate of the first two is ``outer.lr_meta``. With
    ``step_norms`` the scales and shifts of batch norms are ``norms/NAME`` (K, C), those of the inner step that a pass
    belongs to, instead of the module's. ``proximal``, :math:`\lambda`, adds
    :math:`\frac\lambda2 |\phi - \theta|^2` to the inner loss. The inner optimizer starts afresh in every task.
    ``inner_objective`` makes the inner loss another one than that of the query set.

    Sources: Finn, Abbeel, Levine, ICML 2017 (MAML, equation 1); Raghu et al., ICLR 2020 (ANIL, ``adapt: head``);
    Oh, Yoo, Kim, Yun, ICLR 2021 (BOIL, ``adapt: body``); Li et al. 2017 (Meta-SGD, equation 2, ``learned_rates:
    per_element``); Antoniou, Edwards, Storkey, ICLR 2019 (MAML++, ``learned_rates: per_step`` and ``step_norms``);
    Flennerhag et al., ICLR 2020 (``warp``); Rajeswaran et al., NeurIPS 2019 (``proximal``).
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
        self.names = self._names(network)
        self.optimizer = _optimizer(options)
        self.rates = Rates(options, self.names, network)
        self.norms = tuple(network.norms) if options.step_norms else ()
        if options.step_norms and not self.norms:
            raise ConfigError(
                "algorithm.step_norms gives batch norms a scale and shift for each inner step, and the model has no "
                "batch norm with them; set algorithm.step_norms=false, or use a model with batch norms"
            )
        kind = options.preconditioner
        self.preconditioner = None if kind == "none" else Preconditioner(kind, self.names, network)

    @classmethod
    def prepare(cls, options: Any, module: nn.Module, inputs: InputSpec) -> nn.Module:
        """The module as this adaptation runs it: with warps, where they are asked for."""
        return module if options.warp is None else warp(module, options.warp)

    def extras(self, seed: int) -> dict[str, Tensor]:
        """Learned rates, preconditioners and norms of inner steps, as far as they are asked for."""
        steps = self.options.inner_steps
        norms = {NORMS + name: self.network.parameters[name].repeat(steps, 1) for name in self.norms}
        curvature = {} if self.preconditioner is None else self.preconditioner.extras()
        return {**self.rates.extras(seed), **curvature, **norms}

    def init(self, meta: Meta) -> tuple[Params, Any]:
        """The adapted names' meta-parameters, and a fresh optimizer state."""
        params = self._first(meta)
        return params, self.optimizer.init(params)

    def loss(self, params: Params, meta: Meta, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss of these examples, and their outputs."""
        outputs = self.predict(meta, params, batch)
        loss = self.inner_objective.loss(outputs, batch.data)
        if self.options.proximal:
            first = self._first(meta)
            apart = torch.stack([(value - first[name]).square().sum() for name, value in params.items()]).sum()
            loss = loss + self.options.proximal / 2 * apart
        return loss, outputs

    def update(self, params: Params, state: Any, gradient: Params, meta: Meta, step: int) -> tuple[Params, Any]:
        """One step of the inner optimizer."""
        direction, state = self.optimizer.direction(self._conditioned(meta, gradient), state, step)
        return {
            name: value - self.rates.of(meta, name, step) * direction[name] for name, value in params.items()
        }, state

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
            direction, state = self.optimizer.direction(self._conditioned(meta, gradient), state, step)
            for name, value in params.items():
                change = scratch[value.dtype][: value.numel()].view(value.shape)
                value.sub_(torch.mul(direction[name], self.rates.of(meta, name, step), out=change))
            del gradient, direction  # before the next ones are computed
        return params

    def predict(self, meta: Meta, adapted: Params, batch: Batch) -> Tensor:
        """The network's outputs with the adapted parameters."""
        parameters = self._parameters(meta, adapted, batch.step)
        return self.network(parameters, inputs_of(batch.data), key=batch.key, draw=batch.draw)

    def predict_inductive(self, meta: Meta, adapted: Params, support: Support, batch: Batch) -> Tensor:
        """The network's outputs, normalised with the support set's statistics under the adapted parameters."""
        parameters = self._parameters(meta, adapted, batch.step)
        return self.network.with_support_statistics(parameters, inputs_of(support.data), inputs_of(batch.data))

    def _names(self, network: Network) -> tuple[str, ...]:
        """The parameters that a task changes."""
        return adapted_names(self.options, network)

    def _first(self, meta: Meta) -> dict[str, Tensor]:
        """What a task's parameters are at first."""
        return {name: meta[MODEL + name] for name in self.names}

    def _conditioned(self, meta: Meta, gradient: Params) -> Params:
        return gradient if self.preconditioner is None else self.preconditioner(meta, gradient)

    def _parameters(self, meta: Meta, adapted: Params, step: int | None) -> dict[str, Tensor]:
        """All parameters of the module in a pass of this inner step."""
        norms = {name: meta[NORMS + name] for name in self.norms}
        own = {name: each[-1 if step is None else min(step, len(each) - 1)] for name, each in norms.items()}
        return {**module_parameters(meta), **own, **adapted}


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
