"""Targets that do not fit the objective, refused by name before anything is computed with them."""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.records import Data
from distmeta.errors import ConfigError
from distmeta.objectives import Objective, Scored, objective_name
from distmeta.objectives.weights import weight_of


def check_targets(config: Config, objective: Objective, y: Tensor, outputs: int) -> None:
    """Refuse targets of some tasks that are not what the objective is about.

    Args:
        config: of the run, for the message.
        objective: an own one without a kind of target takes what comes.
        y: (T, N) or (T, N, D).
        outputs: the number of classes, or D.

    Raises:
        ConfigError: saying what the objective takes and what the tasks have.
    """
    if not isinstance(objective, Scored):
        return
    name, kind = objective_name(config.tasks.objective), config.tasks.kind
    whole = not (y.is_floating_point() or y.dtype == torch.bool)
    if objective.classes != whole or y.dim() != (2 if objective.classes else 3):
        wanted = "class indices, whole numbers (N,)" if objective.classes else "floating-point numbers (N, D)"
        raise ConfigError(
            f"tasks.objective = {name} is about {wanted}, and the targets of tasks.kind = {kind} are "
            f"{str(y.dtype).removeprefix('torch.')} of shape {_shape(y)}; use {_fitting(objective, whole)}"
        )
    if objective.classes:
        if int(y.min()) < 0 or int(y.max()) >= outputs:
            raise ConfigError(
                f"tasks.kind = {kind}: labels lie between 0 and {outputs - 1}, and there are some from {int(y.min())} "
                f"to {int(y.max())}"
            )
    elif y.shape[-1] != outputs:
        raise ConfigError(
            f"tasks.kind = {kind}: TaskSpec.outputs = {outputs} is the dimension of y, and y has {y.shape[-1]}"
        )
    check_bounds(objective, y, f"tasks.objective = {name}: targets of tasks.kind = {kind}")


def check_weights(config: Config, data: Data, weighted: bool) -> None:
    """Refuse weights of examples that the family does not announce, and announced ones that are missing or wrong.

    Args:
        config: of the run, for the message.
        data: of support or query sets, each tensor (T, N, ...).
        weighted: what the family says, see :class:`~distmeta.tasks.base.TaskSpec`.

    Raises:
        ConfigError: saying what a family has to do.
    """
    weight, kind = weight_of(data), config.tasks.kind
    if (weight is not None) != weighted:
        told = "holds weight, but its TaskSpec has not weighted=True" if weight is not None else "holds no weight"
        raise ConfigError(
            f"tasks.kind = {kind}: the tasks' data {told}; a family of unequal tasks has both: weight (T, N) in "
            "support and query, and weighted=True in its TaskSpec"
        )
    if weight is not None and (weight.shape != data["y"].shape[:2] or not bool((weight >= 0).all())):
        raise ConfigError(
            f"tasks.kind = {kind}: weight has the shape {tuple(weight.shape)} and numbers from "
            f"{float(weight.min()):g}; expected {tuple(data['y'].shape[:2])}, tasks and examples, of 0 or more"
        )


def check_bounds(objective: Objective, y: Tensor, what: str) -> None:
    """Refuse targets beyond what the objective takes.

    Raises:
        ConfigError: beginning with ``what``.
    """
    low, high = objective.bounds if isinstance(objective, Scored) else (None, None)
    least, most = float(y.min()), float(y.max())
    if (low is not None and not least >= low) or (high is not None and not most <= high):
        limits = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
        raise ConfigError(f"{what} should be {limits}, and are {least:g} to {most:g}")


def _shape(y: Tensor) -> str:
    return f"({', '.join(['N', *map(str, y.shape[2:])])}{',' if y.dim() == 2 else ''})"


def _fitting(objective: Objective, whole: bool) -> str:
    if whole:
        return "cross_entropy"
    return "y of shape (N, D)" if not objective.classes else "squared_error, or another one for numbers"
