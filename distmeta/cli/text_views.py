"""Tasks of texts as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # the family brings torch
    from distmeta.core.records import Split
    from distmeta.tasks.texts import Text as TextFamily

SHOWN_QUERIES = 2
"""Query texts of a class that are shown."""

_SHOWN_TOKENS = 24
_MARK = "·"
"""Between tokens, which may hold spaces."""


def text_tables(family: TextFamily, split: Split, ids: Sequence[int]) -> Iterator[Table]:
    """Support and the first query texts of each class: the text, and its tokens as the network gets them."""
    for task in ids:
        shots = family.shots(split, task)
        rows = family.draw(split, [task])[0, :, : shots + SHOWN_QUERIES]
        texts = family.texts(rows)
        table = Table(title=Text(f"{split} task {task}"))
        for column in ("class", "", "text", "tokens"):
            table.add_column(column)
        for label, of_class in enumerate(rows):
            for place, (row, tokens) in enumerate(zip(of_class.tolist(), family.tokens(of_class), strict=True)):
                text, name = texts[row]
                more = f" ... ({len(tokens)})" if len(tokens) > _SHOWN_TOKENS else ""
                part = "support" if place < shots else "query"
                known = f"{label}: {name}" if place == 0 else ""
                shown = _MARK.join(tokens[:_SHOWN_TOKENS]) + more
                table.add_row(*(escape(cell) for cell in (known, part, text, shown)))
            table.add_section()
        yield table
