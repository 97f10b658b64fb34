"""The metrics that objectives may report: what each is, which way it improves, and its unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["classes", "labels", "values", "ranks"]
"""What targets are: class indices (N,); labels (N, L) of 0 and 1; numbers (N, D); relevances (N, D)."""

FRACTION = "fraction"
"""Unit of what lies between 0 and 1 and is shown in percent."""

LISTS = ("by_step", "by_episode", "by_group")
"""What of a meta-test is no single figure."""

TARGET, SQUARED = "target", "target squared"
"""Units of what is measured in the target's own unit, or in its square."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        title: for people.
        higher_is_better: which way it improves.
        places: the ``module:function`` of it, below ``distmeta.objectives.scores``, for each kind of target that it
            fits; none where the objective itself computes it.
        unit: :data:`FRACTION`, ``nats``, :data:`TARGET`, :data:`SQUARED`; empty for plain numbers.
        undefined: when a task has no such figure, which is then NaN and left out of the mean, and the mean's number of
            tasks tells so; empty where every task has one.
    """

    title: str
    higher_is_better: bool
    places: Mapping[Kind, str]
    unit: str = ""
    undefined: str = ""

    def of_target(self, unit: str) -> str:
        """The unit, where the target's own is known.

        >>> KNOWN_METRICS["mse"].of_target("m"), KNOWN_METRICS["mae"].of_target("m"), KNOWN_METRICS["mae"].of_target("")
        ('m²', 'm', 'target')
        """
        return {TARGET: unit, SQUARED: f"{unit}²"}.get(self.unit, self.unit) if unit else self.unit


KNOWN_METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", True, {"classes": "classes:accuracy", "labels": "labels:accuracy"}, FRACTION),
    "balanced_accuracy": Metric("balanced accuracy", True, {"classes": "classes:balanced_accuracy"}, FRACTION),
    "f1": Metric(
        "F1, macro",
        True,
        {"classes": "classes:f1", "labels": "labels:f1"},
        FRACTION,
        "no label is there or predicted",
    ),
    "auroc": Metric(
        "area under the ROC",
        True,
        {"classes": "classes:auroc", "labels": "labels:auroc"},
        FRACTION,
        "no class has examples in the query set beside examples of others",
    ),
    "nll": Metric("negative log-likelihood", False, {}, "nats"),
    "mse": Metric("mean squared error", False, {"values": "values:mse"}, SQUARED),
    "rmse": Metric("root mean squared error", False, {"values": "values:rmse"}, TARGET),
    "mae": Metric("mean absolute error", False, {"values": "values:mae"}, TARGET),
    "r2": Metric("R²", True, {"values": "values:r2"}, "", "the query set's targets are all the same"),
    "spearman": Metric(
        "Spearman correlation",
        True,
        {"values": "ranks:spearman", "ranks": "ranks:spearman"},
        "",
        "the query set's targets, or all predictions, are the same",
    ),
    "return": Metric("return", True, {}),
    "return_before": Metric("return before adaptation", True, {}),
    "success": Metric("success", True, {}, FRACTION),
    "success_before": Metric("success before adaptation", True, {}, FRACTION),
    "ndcg": Metric("NDCG", True, {"ranks": "ranks:ndcg"}, "", "no example of the query set is relevant"),
}
"""By name, as ``tasks.metrics`` has them."""


def described(name: str) -> Metric | None:
    """What is known of a measurement by its name, also of one with the support set's statistics (``_inductive``)."""
    return KNOWN_METRICS.get(name.removesuffix("_inductive"))


def may_be_undefined(name: str) -> bool:
    """Whether some tasks may have no such figure.

    >>> may_be_undefined("auroc"), may_be_undefined("accuracy"), may_be_undefined("loss")
    (True, False, False)
    """
    metric = described(name)
    return metric is not None and bool(metric.undefined)
