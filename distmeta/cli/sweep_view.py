"""What a person sees of a sweep: a table of trials in a terminal, plain lines elsewhere, the ranking at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distmeta.cli.display import Display
from distmeta.core.words import clock
from distmeta.sweeps.sweep import Sweep
from distmeta.sweeps.view import TrialStatus

ROWS = 12
"""Trials that a table shows while a sweep runs, and those of the ranking in a terminal."""

MOMENT = 1.0
"""Seconds between pictures."""

SILENT_SECONDS = 30.0
"""Seconds after which plain lines say that the sweep goes on."""

BAR = 60
"""Columns of the progress bar."""

ENDED = ("TERMINATED", "ERROR")
"""Tune's words for trials that have ended."""


class SweepDisplay:
    """Shows a sweep as it goes: trials, the best so far, progress, and the time left at most."""

    def __init__(self, console: Console, sweep: Sweep) -> None:
        self._console, self._sweep = console, sweep
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._test: Display | None = None
        self._told: set[str] = set()
        self._rows: Sequence[TrialStatus] = ()
        self._began = self._drawn = time.monotonic()
        self._before: int | None = None

    def __enter__(self) -> SweepDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._test:
            self._test.__exit__()
        self._stop()

    def test(self, done: int, total: int) -> None:
        """Show the advance of the meta-test at the end, in place of the table: a terminal has room for one."""
        self._stop()
        if self._test is None:
            self._test = Display(self._console, 0, 1).__enter__()
        self._test.test(done, total)

    def show(self, rows: Sequence[TrialStatus]) -> None:
        """Tell of the trials that have ended; in a terminal draw all of them."""
        if self._before is None:  # what an earlier session has done is not in the rate
            self._before = sum(row.step for row in rows)
        self._rows = rows
        if self._live:
            if time.monotonic() - self._drawn > MOMENT:
                self._drawn = time.monotonic()
                self._live.update(self._picture(rows), refresh=True)
            return
        for row in rows:
            if row.status in ENDED and row.name not in self._told:
                self._told.add(row.name)
                self._print(self._line(row, rows))
        if time.monotonic() - self._drawn > SILENT_SECONDS:
            running = sum(row.status == "RUNNING" for row in rows)
            steps = sum(row.step for row in rows)
            self._print(f"{running} running, {steps:,} meta-steps validated; {self._summary(rows)}")

    def _stop(self) -> None:
        """Leave the last picture as the trials are now."""
        if self._live:
            if self._rows:
                self._live.update(self._picture(self._rows), refresh=True)
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        self._drawn = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self, row: TrialStatus, rows: Sequence[TrialStatus]) -> str:
        score = "no score" if row.score is None else f"{self._sweep.metric} {row.score:.4g}"
        steps = f"step {row.step}/{self._sweep.config.run.steps}"
        failed = "  failed" if row.status == "ERROR" else ""
        return f"trial {row.name}  {told(row.values)}  {steps}  {score}{failed}; {self._summary(rows)}"

    def _summary(self, rows: Sequence[TrialStatus]) -> str:
        ended = sum(row.status in ENDED for row in rows)
        best = self._ranked(rows)[:1]
        leader = f"best {self._sweep.metric} {best[0].score:.4g} ({best[0].name})" if best else "none measured yet"
        return f"{leader}  {ended} of {self._sweep.trials} trials done{self._left(rows)}"

    def _left(self, rows: Sequence[TrialStatus]) -> str:
        """The rate, and the time left if no other trial were stopped early."""
        done, seconds = sum(row.step for row in rows) - (self._before or 0), time.monotonic() - self._began
        if done <= 0:
            return ""
        rest = self._total - self._settled(rows)
        return f"  {done / seconds:.3g} meta-steps/s  at most {clock(rest * seconds / done)} left"

    @property
    def _total(self) -> int:
        """Meta-steps of the sweep, if no trial is stopped early."""
        return self._sweep.trials * self._sweep.config.run.steps

    def _settled(self, rows: Sequence[TrialStatus]) -> int:
        """Meta-steps that are done, or that trials which were stopped will not do."""
        return sum(self._sweep.config.run.steps if row.status in ENDED else row.step for row in rows)

    def _ranked(self, rows: Sequence[TrialStatus]) -> list[TrialStatus]:
        sign = -1 if self._sweep.mode == "max" else 1
        return sorted((row for row in rows if row.score is not None), key=lambda row: sign * (row.score or 0.0))

    def _picture(self, rows: Sequence[TrialStatus]) -> Group:
        bar = ProgressBar(total=self._total, completed=self._settled(rows), width=BAR)
        below = Table.grid()  # a bar by itself does not end its line
        below.add_row(bar)
        return Group(self._table(rows), below, Text(self._summary(rows)))

    def _table(self, rows: Sequence[TrialStatus]) -> Table:
        """Those that run, then the best of the others."""
        at_work = [row for row in rows if row.status == "RUNNING"]
        others = [row for row in self._ranked(rows) if row.status != "RUNNING"]
        table = Table(box=SIMPLE_HEAD)
        for column in ("trial", "", *map(_heading, self._sweep.options.space), "steps", self._sweep.metric):
            table.add_column(column, overflow="fold")
        for row in (at_work + others)[:ROWS]:
            values = [_short(row.values.get(key)) for key in self._sweep.options.space]
            score = "" if row.score is None else f"{row.score:.4g}"
            state = {"TERMINATED": "ended", "ERROR": "failed"}.get(row.status, row.status.lower())
            table.add_row(row.name, state, *values, str(row.step), score)
        return table


def ranking(results: Mapping[str, Any]) -> Table:
    """The trials of ``results.json``, the best first."""
    keys = list(dict.fromkeys(key for trial in results["trials"] for key in trial["values"]))
    table = Table(title=f"trials by validation {results['metric']}", box=SIMPLE_HEAD)
    for column in ("trial", "", *map(_heading, keys), "steps", results["metric"]):
        table.add_column(column, overflow="fold")
    for trial in results["trials"]:
        score = "" if trial["score"] is None else f"{trial['score']:.4g} at {trial['step']}"
        values = [_short(trial["values"].get(key)) for key in keys]
        table.add_row(trial["name"], trial["status"], *values, str(trial["steps"]), score)
    return table


def told(values: Mapping[str, Any]) -> str:
    """Values in a line.

    >>> told({"outer.lr": 0.00123456, "algorithm.inner_steps": 3})
    'outer.lr 0.001235, algorithm.inner_steps 3'
    """
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items())


def _heading(key: str) -> str:
    """A setting's name in parts, one below the other: columns are narrow, and a name would break anywhere."""
    return key.replace(".", ".\n")


def _short(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
