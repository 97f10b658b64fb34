"""Settings of tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from distmeta.config.anchors import DataRoot
from distmeta.config.sections import DrawnShots, Examples, Ways
from distmeta.config.splits import SplitColumn, SplitFractions, Splits
from distmeta.tasks.options.episodes import EpisodeOptions


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


ColumnNames = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One name or several."""


class TableOptions(EpisodeOptions):
    """Settings under ``tasks`` for ``kind: table``: one row an example, and a column that names the task.

    ``path`` is a Parquet or CSV file, or a folder of either, here or at a URI. ``task`` names the column of tasks,
    ``target`` one column or several; ``features`` are names or patterns (``sensor_*``), all other columns where they
    are left out. Columns of text are categories, one-hot encoded, and so are those that ``categories`` names; a column
    with more than ``most_categories`` is refused.

    A regression has ``shots`` support and ``queries`` query rows a task. A classification has classes of ``each``
    task, numbered anew in every task, of which ``ways`` are drawn, or of ``all`` tasks together; where ``ways`` is set,
    ``shots`` and ``queries`` count rows of a class. With ``order`` the support set is the first rows by that column,
    and queries are drawn from those after them. ``standardise`` brings number columns, and the targets of a regression,
    to mean 0 and standard deviation 1 over the training tasks. Metrics are told in the target's own unit, whose name
    may stand under ``unit``. ``shots`` may be a section ``{min, max}`` to draw it from for every meta-step;
    ``examples`` keeps shots and queries together constant.
    """

    objective: str = "squared_error"

    path: DataRoot
    task: str
    target: Annotated[ColumnNames, Field(min_length=1)]
    features: Annotated[ColumnNames, Field(min_length=1)] | None = None
    categories: ColumnNames = ()
    most_categories: PositiveInt = 64
    order: str | None = None
    standardise: bool = True
    unit: str = ""
    classes: Literal["each", "all"] = "each"
    ways: Ways | None = None
    shots: DrawnShots = 10
    queries: Examples = 10
    splits: Splits = SplitFractions()

    @model_validator(mode="after")
    def _check_roles(self) -> TableOptions:
        roles = [("task", self.task), *(("target", name) for name in self.target)]
        if self.order is not None:
            roles.append(("order", self.order))
        if isinstance(self.splits, SplitColumn):
            roles.append(("splits.column", self.splits.column))
        seen: dict[str, str] = {}
        for role, name in roles:
            if name in seen:
                raise ValueError(f"{role} and {seen[name]} both name the column {name!r}: expected one column for each")
            seen[name] = role
        return self
