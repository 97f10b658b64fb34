"""The page: sections of figures, tables, charts and pictures, filled into the template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from distmeta.runs.report.charts import Chart
from distmeta.storage.files import Storage
from distmeta.version import __version__

REPORT = "report.html"


@dataclass(frozen=True)
class Rows:
    """A table.

    Attributes:
        rows: the first has the columns' names, and the first cell of each other one is its name.
        title: of the table.
        words: places of columns that hold words.
    """

    rows: Sequence[Sequence[str]]
    title: str = ""
    words: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """An image inside the page.

    Attributes:
        source: a ``data:`` URI.
        told: what it shows, for whoever does not see it.
        label: below or above it.
        mark: ``good``, ``bad`` or nothing.
    """

    source: str
    told: str
    label: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Pictures:
    """Some images side by side."""

    title: str
    images: Sequence[Picture]


@dataclass(frozen=True)
class ExampleTask:
    """A task of the meta-test, as the learner saw it and what it predicted."""

    title: str
    pictures: Sequence[Pictures] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Rows] = ()


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    title: str
    text: str
    open: bool = False


@dataclass(frozen=True)
class PageSection:
    """A section of the page; what it has not is left out."""

    title: str
    text: str = ""
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Rows] = ()
    charts: Sequence[Chart] = ()
    tasks: Sequence[ExampleTask] = ()
    wide: Sequence[Picture] = ()
    code: Sequence[Code] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What links to it name."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def page(title: str, kind: str, sections: Sequence[PageSection]) -> str:
    """The page's HTML; all text that comes from runs is escaped.

    Args:
        title: of the page.
        kind: ``run``, ``comparison`` or ``sweep``.
        sections: in their order.
    """
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    html: str = _template().render(title=title, kind=kind, sections=sections, version=__version__, date=date)
    return html


def write_page(html: str, folder: Storage, out: str | Path | None) -> str:
    """Write a page: as ``out``, or as :data:`REPORT` in a folder; gives its location."""
    place = folder.child(REPORT) if out is None else Storage.at(out)
    place.parent.write_bytes(place.location.rstrip("/").rpartition("/")[2], html.encode())
    return place.location


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    loader = FileSystemLoader(folder)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html")
