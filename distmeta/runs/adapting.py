"""Adapts a trained learner to as many tasks as there are, and predicts in each of them, on workers where asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from torch import Tensor

from distmeta.config.schema import Config
from distmeta.core.records import Inputs
from distmeta.errors import ConfigError, WrongTask
from distmeta.runs.inference import MetaLearner, Statistics, check_statistics

TASKS_A_CALL = 64
"""Tasks that are computed in one call."""

GivenTask = tuple[Inputs, Tensor, Inputs]
"""``(x_support, y_support, x_query)``."""


def adapt(
    learner: MetaLearner,
    tasks: Iterable[GivenTask],
    *,
    steps: int | None = None,
    statistics: Statistics = "support",
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Predictions for the query inputs of tasks, each after adaptation to the task's support set.

    Tasks are read as they are needed, :data:`TASKS_A_CALL` at a time, so there may be more of them than memory holds.
    What a task gets does not depend, to the bit, on the other tasks, on their order, or on the number of workers.

    Args:
        learner: of :func:`~distmeta.runs.learners.load`.
        tasks: support inputs and targets, and query inputs, of each.
        steps: inner steps; as in the run's evaluation by default.
        statistics: whose statistics normalise query inputs, see
            :meth:`~distmeta.runs.inference.AdaptedModel.predict`.
        workers: processes on Ray that compute, at the learner's ``cluster.address`` or on this machine; 0 computes in
            this one.
        check: raises when the work should end.

    Returns:
        An iterator over (N, ways) logits or (N, D) values of each task, in the tasks' order.

    Raises:
        WrongTask: a task does not fit the learner; it has the task's number, from 0.
        ConfigError: unknown ``statistics``, a wrong number of steps or workers.
        ClusterError: workers cannot be had.

    Example::

        learner = distmeta.load("runs/omniglot_5w1s_maml")
        for logits in distmeta.adapt(learner, [(x_support, y_support, x_query)]):
            print(logits.argmax(-1))
    """
    check_statistics(statistics)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ConfigError(f"workers = {workers!r}: expected a whole number of processes, 0 or more")
    compute = partial(_predict, learner, steps, statistics)
    if workers == 0:
        return _flat(map(compute, _windows(tasks, check)))
    from distmeta.workers.ray.spread import spread  # it brings Ray

    return _flat(spread(_on_workers(learner, workers), compute, _windows(tasks, check), check))


def _on_workers(learner: MetaLearner, workers: int) -> Config:
    config = learner.config
    cluster = config.cluster.model_copy(update={"workers": workers})
    run = config.run.model_copy(update={"device": learner.device.type})
    return config.model_copy(update={"cluster": cluster, "run": run})


def _windows(tasks: Iterable[GivenTask], check: Callable[[], None]) -> Iterator[tuple[int, list[GivenTask]]]:
    """Tasks with the number of the first of each window."""
    given, first = iter(tasks), 0
    while window := list(islice(given, TASKS_A_CALL)):
        check()
        yield first, window
        first += len(window)


def _flat(windows: Iterator[list[Tensor]]) -> Iterator[Tensor]:
    for window in windows:
        yield from window


def _predict(
    learner: MetaLearner, steps: int | None, statistics: Statistics, numbered: tuple[int, list[GivenTask]]
) -> list[Tensor]:
    """Predictions for one window."""
    first, window = numbered
    try:
        for number, task in enumerate(window):
            if not isinstance(task, (tuple, list)) or len(task) != 3:
                raise WrongTask(number, "expected (x_support, y_support, x_query)")
        models = learner.adapt_batch([(x, y) for x, y, _ in window], steps)
        return [each.cpu() for each in learner.predict_batch(models, [query for *_, query in window], statistics)]
    except WrongTask as error:
        raise WrongTask(first + error.number, error.problem) from None
