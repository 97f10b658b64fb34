"""Objectives: the loss and the metrics of a kind of task.

One file each, its settings in :mod:`~distmeta.objectives.options`, one line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from distmeta.config.problems import choose, describe
from distmeta.config.registry import Registry
from distmeta.config.sections import ObjectiveOptions, TaskOptions
from distmeta.objectives.base import Curved, Objective, Scored
from distmeta.objectives.binary_cross_entropy import BinaryCrossEntropy
from distmeta.objectives.cross_entropy import CrossEntropy
from distmeta.objectives.gaussian import Gaussian
from distmeta.objectives.huber import Huber
from distmeta.objectives.metrics import KNOWN_METRICS, described
from distmeta.objectives.options import CrossEntropyOptions, GaussianOptions, HuberOptions, PolicyGradientOptions
from distmeta.objectives.pairwise_logistic import PairwiseLogistic
from distmeta.objectives.poisson import Poisson
from distmeta.objectives.policy_gradient import Dice, LikelihoodRatio, PolicyGradient, Reinforce
from distmeta.objectives.squared_error import SquaredError

OBJECTIVES: Registry[Objective, ObjectiveOptions] = Registry(
    "tasks.objective",
    "a class with the methods of distmeta.objectives.base.Objective",
    {
        "cross_entropy": (CrossEntropyOptions, "distmeta.objectives.cross_entropy:CrossEntropy"),
        "squared_error": (ObjectiveOptions, "distmeta.objectives.squared_error:SquaredError"),
        "binary_cross_entropy": (ObjectiveOptions, "distmeta.objectives.binary_cross_entropy:BinaryCrossEntropy"),
        "huber": (HuberOptions, "distmeta.objectives.huber:Huber"),
        "gaussian": (GaussianOptions, "distmeta.objectives.gaussian:Gaussian"),
        "poisson": (ObjectiveOptions, "distmeta.objectives.poisson:Poisson"),
        "likelihood_ratio": (PolicyGradientOptions, "distmeta.objectives.policy_gradient:LikelihoodRatio"),
        "reinforce": (PolicyGradientOptions, "distmeta.objectives.policy_gradient:Reinforce"),
        "dice": (PolicyGradientOptions, "distmeta.objectives.policy_gradient:Dice"),
        "pairwise_logistic": (ObjectiveOptions, "distmeta.objectives.pairwise_logistic:PairwiseLogistic"),
    },
    ObjectiveOptions,
)

__all__ = [
    "KNOWN_METRICS",
    "OBJECTIVES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Curved",
    "Dice",
    "Gaussian",
    "Huber",
    "LikelihoodRatio",
    "Objective",
    "PairwiseLogistic",
    "Poisson",
    "PolicyGradient",
    "Reinforce",
    "Scored",
    "SquaredError",
    "objective_name",
    "objective_of",
    "objective_options",
    "open_objective",
    "outputs_of",
]


def objective_name(setting: str | ObjectiveOptions) -> str:
    """The entry that a setting names."""
    return setting if isinstance(setting, str) else setting.name


def objective_options(values: Mapping[str, Any], key: str) -> type[ObjectiveOptions]:
    """The settings class of ``values["name"]``; a ``ValueError`` where there is no such objective."""
    options: type[ObjectiveOptions] = choose(OBJECTIVES.options, values.get("name"), f"{key}.name")
    return options


def open_objective(setting: str | ObjectiveOptions, key: str = "tasks.objective") -> Objective:
    """The objective of a setting.

    Raises:
        ValueError: there is no such objective, or it has settings that have to be given.

    >>> open_objective("squared_error").metrics
    ('mse',)
    """
    name = objective_name(setting)
    entry: Any = choose(OBJECTIVES, name, key)
    if not hasattr(entry, "Options"):
        return cast(Objective, entry())
    try:
        options = entry.Options(name=name) if isinstance(setting, str) else setting
    except ValidationError as error:
        raise ValueError("; ".join(describe(error, key))) from None
    return cast(Objective, entry(options))


def objective_of(tasks: TaskOptions, scale: tuple[float, ...] | None = None) -> Objective:
    """The objective of a section ``tasks``, with the metrics that it chooses.

    Args:
        tasks: the section.
        scale: see :class:`~distmeta.tasks.base.TaskSpec`.

    Raises:
        ValueError: there is no such objective, or a metric does not fit it.
    """
    objective = open_objective(tasks.objective)
    if scale is not None and isinstance(objective, Scored):
        objective.scale = scale
    if tasks.metrics is None:
        return objective
    known = objective.fitting() if isinstance(objective, Scored) else getattr(objective, "known", objective.metrics)
    for name in tasks.metrics:
        choose(dict.fromkeys(known), name, f"tasks.metrics (objective {objective_name(tasks.objective)})")
    if len(set(tasks.metrics)) < len(tasks.metrics):
        raise ValueError(f"tasks.metrics = {tasks.metrics}: name each metric once")
    first = tasks.metrics[0]
    if isinstance(objective, Scored) or first != objective.metrics[0]:
        metric = described(first)
        if metric is None:
            raise ValueError(
                f"tasks.metrics: models would be selected by {first}, and which way it improves is not known; begin "
                f"with {objective.metrics[0]}"
            )
        objective.higher_is_better = metric.higher_is_better
    objective.metrics = tuple(tasks.metrics)
    return objective


def outputs_of(objective: Objective, dimension: int) -> int:
    """Numbers that a network has to give for targets of this dimension, or for so many classes."""
    return objective.outputs(dimension) if isinstance(objective, Scored) else dimension
