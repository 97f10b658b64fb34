"""Predictions of given tasks as a Parquet file, and how good they are where that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distmeta.errors import DataError, WrongTask
from distmeta.runs.adapting import adapt
from distmeta.runs.given import GivenTasks, open_tasks
from distmeta.runs.given.joining import Told
from distmeta.runs.inference import MetaLearner, Statistics
from distmeta.runs.metrics import mean_ci
from distmeta.storage.atomic import replacing

ROWS_A_GROUP = 100_000
"""Predictions that are written at a time."""


def predict_files(
    learner: MetaLearner,
    support: str,
    query: str,
    out: str | Path,
    *,
    steps: int | None = None,
    statistics: Statistics = "support",
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Adapt to the tasks of files and write what is predicted for their queries.

    The file has a row for each query: ``task``, ``row`` (an image's name, or the number of a row from 1), and

    - of classifications ``prediction``, ``probability`` of it, and ``classes`` with their ``probabilities``;
    - of regressions ``prediction``, a number, or a list where there are several;
    - ``target``, where the queries have labels.

    Args:
        learner: of :func:`~distmeta.runs.learners.load`.
        support: images, a table, texts or arrays, see :mod:`distmeta.runs.given`.
        query: likewise; labels are used for comparison alone.
        out: a local Parquet file; it appears when it is whole.
        steps: inner steps; as in the run's evaluation by default.
        statistics: see :meth:`~distmeta.runs.inference.AdaptedModel.predict`.
        workers: processes on Ray; 0 computes in this one.
        check: raises when the work should end.
        progress: called with the number of tasks done and of all.

    Returns:
        ``tasks`` and ``queries``, their numbers, and where there are labels the figures: each ``mean`` over tasks, its
        ``ci95`` (``None`` for one task) and number of ``tasks``.

    Raises:
        DataError: a file is missing, damaged or lacks something; ``out`` is a folder, or one of the files read.
        WrongTask: a task does not fit the learner; the message has its name.
    """
    target = Path(out)
    if target.is_dir():
        raise DataError(
            f"--out = {out} is a folder; name a file to write, for example {target / 'predictions.parquet'}"
        )
    if not target.parent.is_dir():
        raise DataError(f"{out}: there is no folder {target.parent}; make it first")
    given = open_tasks(learner, support, query)
    try:
        given.check_out(target)
        found = adapt(learner, given.tasks(), steps=steps, statistics=statistics, workers=workers, check=check)
        with replacing(target) as path, _Writer(learner, path) as writer:
            for number, (told, outputs) in enumerate(zip(given.told(), _named(found, given), strict=True), 1):
                writer.add(told, outputs)
                progress(number, len(given))
        return writer.summary()
    finally:
        given.close()


def _named(found: Iterator[Tensor], given: GivenTasks) -> Iterator[Tensor]:
    """Outputs as they come; a wrong task is told by its name."""
    try:
        yield from found
    except WrongTask as error:
        raise given.refused(error.number, error.problem) from None


class _Writer(AbstractContextManager["_Writer"]):
    """Writes rows in groups, and keeps each task's figures."""

    def __init__(self, learner: MetaLearner, path: Path) -> None:
        self._learner, self._path = learner, path
        self._columns: dict[str, list[Any]] = {}
        self._file: Any = None
        self._tasks = self._queries = 0
        self._figures: dict[str, list[float]] = {}

    def __exit__(self, *_: object) -> None:
        if self._columns:
            self._flush()
        if self._file is not None:
            self._file.close()

    def add(self, told: Told, outputs: Tensor) -> None:
        """The predictions of one task."""
        self._tasks += 1
        self._queries += len(outputs)
        rows = self._of_classes(told, outputs) if told.classes is not None else self._of_values(told, outputs)
        base = {"task": [told.name] * len(outputs), "row": [str(row) for row in told.rows]}
        for name, values in {**base, **rows}.items():
            self._columns.setdefault(name, []).extend(values)
        if len(self._columns["row"]) >= ROWS_A_GROUP:
            self._flush()

    def summary(self) -> dict[str, Any]:
        """What :func:`predict_files` returns."""
        figures = {name: _figure(values) for name, values in self._figures.items()}
        return {"tasks": self._tasks, "queries": self._queries, **figures}

    def _of_classes(self, told: Told, outputs: Tensor) -> dict[str, list[Any]]:
        assert told.classes is not None
        names = [str(each) for each in told.classes]
        probabilities = outputs[:, : len(names)].double().softmax(-1)  # of those that the task has
        likely, chosen = probabilities.max(-1)
        found: dict[str, list[Any]] = {
            "prediction": [names[place] for place in chosen.tolist()],
            "probability": likely.tolist(),
            "classes": [names] * len(outputs),
            "probabilities": probabilities.tolist(),
        }
        if told.targets is not None:
            found["target"] = [names[place] for place in told.targets.tolist()]
            self._note("accuracy", (chosen == told.targets).double().mean())
        return found

    def _of_values(self, told: Told, outputs: Tensor) -> dict[str, list[Any]]:
        predicted = self._learner.predicted(outputs)
        found: dict[str, list[Any]] = {"prediction": _plain(predicted)}
        if told.targets is not None:
            difference = predicted.double() - told.targets
            self._note("mse", difference.square().mean())
            self._note("mae", difference.abs().mean())
            found["target"] = _plain(told.targets)
        return found

    def _note(self, name: str, value: Tensor) -> None:
        self._figures.setdefault(name, []).append(value.item())

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(self._columns)
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, table.schema)
        self._file.write_table(table)
        self._columns = {}


def _plain(values: Tensor) -> list[Any]:
    return values[:, 0].tolist() if values.shape[1] == 1 else values.tolist()


def _figure(values: list[float]) -> dict[str, Any]:
    measured = mean_ci(torch.tensor(values, dtype=torch.float64))
    ci95 = measured["ci95"] if len(values) > 1 and math.isfinite(measured["ci95"]) else None
    return {"mean": measured["mean"], "ci95": ci95, "tasks": len(values)}
