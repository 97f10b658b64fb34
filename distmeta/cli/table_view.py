"""Tasks of a table, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table as RichTable

if TYPE_CHECKING:  # the family brings torch
    from distmeta.core.records import Split
    from distmeta.tasks.table import Table

MOST_COLUMNS = 8
"""Feature columns that are shown; the rest are counted."""


def table_tasks(family: Table, split: Split, ids: Sequence[int]) -> Iterator[RichTable]:
    """A table for each of some tasks: its support and query rows, in the unit of the file, as the learner draws them.

    Args:
        family: opened, with an episode for the split.
        split: of the tasks.
        ids: the tasks.
    """
    for task in ids:
        rows = family.rows(split, task)
        names = list(rows[0].features)
        shown = names[:MOST_COLUMNS]
        more = f", {len(names) - len(shown)} more features" if len(names) > len(shown) else ""
        drawn = RichTable(title=escape(f"{split} task {task}: {family.name(split, task)}{more}"))
        for column in ("", *shown, *rows[0].targets):
            drawn.add_column(escape(column), justify="left" if column == "" else "right")
        for at, row in enumerate(rows):
            last = at + 1 == len(rows) or rows[at + 1].part != row.part
            values = [*(row.features[name] for name in shown), *row.targets.values()]
            drawn.add_row(row.part, *(escape(_text(value)) for value in values), end_section=last)
        yield drawn


def _text(value: float | str | list[float]) -> str:
    """A value, numbers to four digits.

    >>> _text(0.123456), _text([1.0, 2.0]), _text("a")
    ('0.1235', '1 2', 'a')
    """
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return value if isinstance(value, str) else f"{value:.4g}"
