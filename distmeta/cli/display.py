"""What a person sees of a run: a progress bar in a terminal, plain lines elsewhere, tables of results."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from distmeta.cli.style import STYLE
from distmeta.core.secrets import mask
from distmeta.core.words import clock
from distmeta.objectives.metrics import FRACTION, LISTS, SQUARED, TARGET, described

if TYPE_CHECKING:  # measuring needs a good part of torch, showing does not
    from distmeta.config.schema import Config
    from distmeta.core.records import StepRecord
    from distmeta.runs.planning import MeasuredPlan

SMOOTHING = 0.95
"""Weight of the past in the shown loss and metric: about the last 20 steps."""


def printable(text: str) -> str:
    """Text for a terminal: names and values of files that it quotes cannot change colours, or what is there already.

    >>> printable("there is no \\x1b[2J")
    'there is no \\\\x1b[2J'
    """
    return "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)


class _Lines(logging.Handler):
    """Log messages as plain lines that do not break a progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        message = printable(mask(record.getMessage()))
        self._console.print(f"{prefix}{message}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def messages(console: Console) -> Iterator[None]:
    """Print what the library logs to this console."""
    logger, handler = logging.getLogger("distmeta"), _Lines(console)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Bars(Progress):
    """Progress bars with a line of text below; beside them it would not fit a terminal of 80 columns."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below)


class Display:
    """Shows a run as it goes: rate, time left, smoothed loss and metric, workers and faults.

    Plain lines say workers and faults only where these have changed since the line before.
    """

    def __init__(self, console: Console, steps: int, every: int) -> None:
        self._console = console
        self._steps = steps
        self._every = every
        self._smooth: dict[str, float] = {}
        self._began: float | None = None
        self._team: str | None = None
        self._seen = 0
        self._bar: _Bars | None = None
        self._rows: dict[str, TaskID] = {}
        if console.is_terminal:
            columns = (
                "{task.description}",
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
            )
            self._bar = _Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, record: StepRecord) -> None:
        """Show a meta-step."""
        self._seen += 1
        if self._began is None:  # start-up is not in the rate
            self._began = time.monotonic() - record.seconds
        seconds = time.monotonic() - self._began
        for name, value in {**record.metrics, "tasks/s": record.tasks_per_second}.items():
            self._smooth[name] = SMOOTHING * self._smooth.get(name, value) + (1 - SMOOTHING) * value
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self._smooth.items())
        team = _team(record)
        if self._team is None:  # how many there are at the start is no change
            self._team = _counted(record.workers, "workers")
        if self._bar:
            self._bar.below = team
            self._advance("meta-training", record.step, self._steps, shown)
        elif record.step % self._every == 0 or record.step == self._steps:
            left = clock(seconds / self._seen * (self._steps - record.step))
            changed = f"  {team}" if team != self._team else ""
            self._team = team
            self._print(f"step {record.step}/{self._steps}  {shown}{changed}  {left} left")
        if record.validation is not None:
            measured = "  ".join(f"{name} {value:.4g}" for name, value in record.validation.items())
            self._print(f"step {record.step}: validation  {measured}")

    def test(self, done: int, total: int) -> None:
        """Show the advance of a meta-test."""
        if self._bar:
            self._advance("meta-test", done, total, "tasks")
        elif done == total:
            self._print(f"meta-test: {total} tasks")

    def built(self, done: int, total: int) -> None:
        """Show the advance of building a data set."""
        if self._bar:
            self._advance("building", done, total, "images")
        elif done == total:
            self._print(f"built from {total} images")

    def partitioned(self, things: str, done: int, total: int) -> None:
        """Show the advance of clustering: ``images`` that are embedded, then ``partitions``."""
        if self._bar:
            self._advance({"images": "embedding", "partitions": "clustering"}[things], done, total, things)
        elif done * 10 // total > (done - 1) * 10 // total and (things == "partitions" or done == total):
            self._print(f"{done:,} of {total:,} {things}")

    def adapted(self, done: int, total: int) -> None:
        """Show the advance of adapting to given tasks."""
        if self._bar:
            self._advance("adapting", done, total, "tasks")
        elif done * 10 // total > (done - 1) * 10 // total:
            self._print(f"{done:,} of {total:,} tasks")

    def measured(self, done: int, total: int) -> None:
        """Show the advance of a series of measurements."""
        if self._bar:
            self._advance("measuring", done, total, "plans")
        else:
            self._print(f"measured {done} of {total} plans")

    def _advance(self, name: str, done: int, total: int, shown: str) -> None:
        assert self._bar is not None
        if name not in self._rows:
            self._rows[name] = self._bar.add_task(name, total=total, shown=shown)
            self._bar.reset(self._rows[name], completed=done - 1)
        self._bar.update(self._rows[name], completed=done, shown=shown)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _counted(number: int, things: str) -> str:
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


def _team(record: StepRecord) -> str:
    """Workers at work and faults so far, briefly: redone shards go without saying where a worker was lost."""
    faults = {name: number for name, number in _faults(record.faults).items() if name != "shards_redone"}
    return ", ".join([_counted(record.workers, "workers"), *fault_words(faults)])


def _faults(counts: Mapping[str, int]) -> dict[str, int]:
    """What went wrong, of all that is counted: that a late worker's shards went to a second one too is no fault."""
    return {name: number for name, number in counts.items() if name != "shards_duplicated"}


def fault_words(faults: Mapping[str, int]) -> list[str]:
    """What went wrong, in words; what did not is left out.

    >>> fault_words({"workers_lost": 1, "shards_redone": 4, "steps_skipped": 0, "driver_restarts": 2})
    ['1 worker lost', '4 shards redone', '2 restarts']
    """
    words = []
    for name, number in faults.items():
        things, _, what = name.partition("_")
        plain = _counted(number, what) if things == "driver" else f"{_counted(number, things)} {what}"
        words += [plain] if number else []
    return words


def size_of(count: int) -> str:
    """Bytes as people read them.

    >>> size_of(512), size_of(1_500_000)
    ('512 B', '1.5 MB')
    """
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"


UNTOLD = ("", TARGET, SQUARED)
"""Units that tell nothing beyond the metric's name."""

NAMES = {"before_adaptation": "before adaptation"}


def meta_test_table(measured: Mapping[str, Any]) -> Table:
    """The ``meta_test`` object as a table: means with 95 % intervals.

    The metric is the first measurement beside the loss. What lies between 0 and 1 is shown in percent, anything else as
    a number, with its unit where it has one. An arrow says which way a metric improves.
    """
    table = Table(title="meta-test")
    for column, side in (("", "left"), ("mean", "right"), ("± 95 %", "right"), ("tasks", "right")):
        table.add_column(column, justify="right" if side == "right" else "left")
    metric = next((name for name in measured if name not in ("loss", *LISTS, "before_adaptation")), "loss")
    percent = _is_fraction(metric, measured)
    for name, value in measured.items():
        if name in LISTS or (name == "loss" and metric == "mse"):
            continue
        fraction = percent if name == "before_adaptation" else _is_fraction(name, measured)
        table.add_row(_title(name, measured), *_pair(value, fraction), str(value["tasks"]))
    _add_progress(table, measured, percent)
    for group, own in measured.get("by_group", {}).items():
        table.add_section()
        if "before_adaptation" in own:
            before = own["before_adaptation"]
            table.add_row(f"{group}, before adaptation", *_pair(before, percent), str(before["tasks"]))
        _add_progress(table, own, percent, f"{group}, ")
    return table


def _add_progress(table: Table, measured: Mapping[str, Any], percent: bool, group: str = "") -> None:
    """Rows of the metric after inner steps, or in episodes."""
    for row in _chosen(measured.get("by_step", []), "step"):
        steps = f"{group}after {row['step']} inner step{'s' if row['step'] != 1 else ''}"
        table.add_row(steps, *_pair(row, percent), "")
    for row in _chosen(measured.get("by_episode", []), "episode"):
        table.add_row(f"{group}episode {row['episode']}", *_pair(row, percent), "")


def shots_table(tested: Sequence[Mapping[str, Any]]) -> Table:
    """Meta-tests with several numbers of shots, a row each: means with 95 % intervals."""
    first = tested[0]
    names = [name for name in first if name not in ("shots", *LISTS)]
    metric = next((name for name in names if name not in ("loss", "before_adaptation")), "loss")
    table = Table(title="meta-test by shots", caption="mean ± 95 % over tasks")
    table.add_column("shots", justify="right")
    for name in names:
        table.add_column(_title(name, first), justify="right")
    for each in tested:
        kinds = {name: _is_fraction(metric if name == "before_adaptation" else name, each) for name in names}
        table.add_row(str(each["shots"]), *(" ± ".join(_pair(each[name], kinds[name])) for name in names))
    return table


def _title(name: str, measured: Mapping[str, Any]) -> str:
    """A measurement's name, unit and direction; where batch statistics give two, which statistics it uses."""
    plain, value = name.removesuffix("_inductive"), measured[name]
    way = ", inductive" if plain != name else ", transductive" if f"{name}_inductive" in measured else ""
    metric = described(name)
    unit = value.get("unit", "")
    told = "" if unit in UNTOLD or unit == FRACTION else f" ({unit})"
    known = metric.higher_is_better if metric else None  # results of older versions do not say
    better = {True: " ↑", False: " ↓", None: ""}[value.get("higher_is_better", known)]
    return (metric.title if metric else NAMES.get(plain, plain)) + told + way + better


def _is_fraction(name: str, measured: Mapping[str, Any]) -> bool:
    """Whether a measurement is shown in percent."""
    metric = described(name)
    known = metric.unit if metric else FRACTION if name.startswith("accuracy") else ""
    return bool(measured.get(name, {}).get("unit", known) == FRACTION)


def _chosen(rows: list[Any], key: str) -> list[Any]:
    """Few enough rows to read, without the first: all of them up to ten, else every tenth of the way."""
    if len(rows) <= 11:
        return rows[1:]
    stride = -(-(len(rows) - 1) // 10)
    return [row for row in rows[1:] if row[key] % stride == 0 or row is rows[-1]]


def _pair(value: Mapping[str, float | None], fraction: bool) -> tuple[str, str]:
    """Mean and interval as text; ``None`` is what ``result.json`` has for a number that is not finite."""
    scale, form = (100, "{:.2f} %") if fraction else (1, "{:.4g}")
    mean, ci95 = (math.nan if number is None else number for number in (value["mean"], value["ci95"]))
    return form.format(scale * mean), form.format(scale * ci95)


def plan_table(measured: Sequence[MeasuredPlan], best: MeasuredPlan, config: Config) -> Table:
    """Plans side by side: the first is that of ``auto``, the fastest for the run's tasks is marked."""
    tasks = config.run.steps * config.run.meta_batch
    threads = f"{config.run.threads} thread{'s' if config.run.threads != 1 else ''}"
    table = Table(
        title=f"one worker of {threads}; * is through with {tasks:,} tasks first",
        caption="error: relative distance of the meta-gradient to plain autograd in float64; ! beyond rounding",
        box=SIMPLE_HEAD,
    )
    left = ("", "layers", "compile", "gradient")
    for column in (*left, "chunk", "tasks/s", "prepare", "error"):
        table.add_column(column, justify="left" if column in left else "right")
    for place, each in enumerate(measured):
        mark = ("*" if each is best else "") + ("auto" if place == 0 else "")
        plan = each.plan
        figures = (each.problem, "", "!")
        if not each.problem:
            rate, preparation = f"{each.tasks_per_second:.1f}", f"{each.preparation:.1f} s"
            figures = (rate, preparation, f"{each.error:.1e}{'' if each.agrees else ' !'}")
        table.add_row(mark, plan.layers, plan.compile, plan.differentiation, str(plan.chunk), *figures)
    return table


def result_lines(result: Mapping[str, Any], location: str) -> list[str]:
    """What a run did, in a few lines."""
    lines = [
        f"{result['tasks']:,} tasks in {result['steps']:,} meta-steps, {clock(result['seconds'])} of training, "
        f"{result['tasks_per_second']:.0f} tasks/s, {_counted(result['workers']['count'], 'workers')}",
        f"run directory: {mask(location)} (tested {result['checkpoint']})",
        f"report: {mask(location)}/report.html",
    ]
    faults = fault_words(_faults(result["faults"]))
    if faults:
        lines.append("faults: " + ", ".join(faults))
    return lines


def consoles() -> tuple[Console, Console]:
    """Standard output for results, standard error for progress and messages, as the command's style has them."""
    style = STYLE.get()
    return Console(file=sys.stdout, quiet=style.json), Console(file=sys.stderr, quiet=style.quiet)
