"""The page of one run from its files alone: written at its end, and the frame of ``distmeta report``."""

from __future__ import annotations

from collections.abc import Sequence

from distmeta.runs.directory import RunDirectory
from distmeta.runs.report import sections
from distmeta.runs.report.page import REPORT, PageSection, page
from distmeta.runs.report.reading import RunFacts, read_run


def report(directory: RunDirectory) -> None:
    """Write ``report.html`` of a run into its directory.

    Raises:
        StorageError: it cannot be written.
    """
    run = read_run(directory.storage)
    directory.storage.write_bytes(REPORT, page(run.name, "run", parts(run, ())).encode())


def parts(run: RunFacts, more: Sequence[PageSection]) -> list[PageSection]:
    """The sections of a run's page, with what else there is to show after its curves."""
    return [
        sections.summary(run),
        *sections.figures(run),
        *sections.curves({run.name: run}),
        *more,
        *sections.time_and_faults(run),
        sections.reproduction(run),
    ]
