"""Measuring plans: the ways to compute one configuration's meta-gradients, on this machine, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import torch

from distmeta.config.schema import Config
from distmeta.core.plan import Compile, Differentiation, Layers, Plan
from distmeta.core.requests import Request, Start
from distmeta.errors import ConfigError
from distmeta.estimators import ESTIMATORS
from distmeta.programs.engine.comparison import disagreement
from distmeta.programs.engine.settling import CHUNKS_COMPARED, PLAN_TOLERANCE, sample
from distmeta.programs.task_program import TaskProgram
from distmeta.tasks import fit_family, prepare_family
from distmeta.workers.worker import Worker

AGREES = 1e-5
"""Relative distance to plain autograd in float64 that float32 keeps to, rounding at a ReLU's corner apart."""


@dataclass(frozen=True)
class MeasuredPlan:
    """One plan, measured.

    Attributes:
        plan: how it was computed.
        tasks_per_second: of one worker, median over rounds.
        preparation: seconds that recording and compiling took.
        error: relative distance of its meta-gradient to plain autograd in float64, one task at a time; the median over
            three shards, since rounding at the corner of a ReLU makes jumps.
        agrees: whether that is rounding.
        problem: why the plan does not work here; then the figures are zero.
    """

    plan: Plan
    tasks_per_second: float = 0.0
    preparation: float = 0.0
    error: float = 0.0
    agrees: bool = False
    problem: str = ""

    def seconds(self, tasks: int) -> float:
        """Preparing for and computing so many tasks."""
        return self.preparation + tasks / self.tasks_per_second if self.agrees else float("inf")


Report = Callable[[int, int], None]
"""Called with the number of plans measured and their total, as far as it is known."""


def measure_plans(
    config: Config, seconds: float = 2.0, report: Report = lambda done, total: None
) -> list[MeasuredPlan]:
    """Measure the plan that ``auto`` gives, then others: layers, differentiation, chunks, ways to compile, in turn.

    Each stage varies the fastest plan so far, where "fastest" counts preparation and all tasks of the run. What the
    configuration asks for by name is not varied.

    Args:
        config: what is to be run; its tasks are sampled, its data opened.
        seconds: time for each plan's rounds.
        report: called as it goes on.

    Returns:
        In the order of measurement; the first is that of ``auto``.

    Raises:
        ConfigError: tasks cannot be mapped together, so there is nothing to choose.
    """
    config = fit_family(config)
    prepare_family(config)
    worker = Worker(config)
    try:
        program = worker.program
        assert isinstance(program, TaskProgram)
        if not program.plans:
            raise ConfigError(
                f"algorithm.adaptation = {config.algorithm.adaptation} is computed in one way, so there is no plan to "
                "choose"
            )
        auto = program.probe()
        if auto.running != "mapped":
            raise ConfigError(f"tasks are computed one by one here, so there is no plan to choose: {auto.reason}")
        bench = _Bench(config, program, seconds)
        measured = [bench.measure(auto)]
        tasks = config.run.steps * config.run.meta_batch
        for stage in (_layers, _differentiations, _chunks, _compilers):
            best = fastest(measured, tasks)
            plans = [plan for plan in stage(config, best.plan) if all(plan != other.plan for other in measured)]
            for number, plan in enumerate(plans, 1):
                report(len(measured), len(measured) + len(plans) - number + 1)
                measured.append(bench.measure(plan))
        report(len(measured), len(measured))
        return measured
    finally:
        worker.close()


def fastest(measured: list[MeasuredPlan], tasks: int) -> MeasuredPlan:
    """The plan that is through with so many tasks first, preparation included."""
    best = min(measured, key=lambda each: each.seconds(tasks))
    if not best.agrees:
        raise ConfigError(
            "no plan computes this configuration's meta-gradient: "
            + "; ".join(dict.fromkeys(each.problem or f"error {each.error:.1e}" for each in measured))
        )
    return best


class _Bench:
    """Measures plans on one program, all on the same tasks."""

    def __init__(self, config: Config, program: TaskProgram, seconds: float) -> None:
        self._program = program
        self._seconds = seconds
        self._shard = config.run.shard
        self._references = [program.reference_gradient(self._shard, n * self._shard) for n in range(CHUNKS_COMPARED)]
        program.follow(Plan())
        self._plain = self._error()

    def measure(self, plan: Plan) -> MeasuredPlan:
        """Prepare, compare, time."""
        program = self._program
        program.follow(Plan())  # forgets what another plan has compiled
        try:
            program.follow(plan)
            request = Request("gradient", Start.of(0, program.initial_vector()))
            began = time.perf_counter()
            program.answer(request, "train", range(self._shard))
            first = time.perf_counter() - began
            error = self._error()
            rounds = list(self._rounds(request))
        except Exception as error_:  # whatever a compiler raises
            return MeasuredPlan(plan, problem=f"{type(error_).__name__}: {' '.join(str(error_).split())[:100]}")
        usual = statistics.median(rounds)
        tolerance = PLAN_TOLERANCE[plan.precision]
        if plan.precision == "float32":
            tolerance = min(tolerance, max(AGREES, 10 * self._plain))
        return MeasuredPlan(plan, self._shard / usual, max(0.0, first - usual), error, error <= tolerance)

    def _error(self) -> float:
        """Median distance of some shards' meta-gradients: in single ones an activation may lie at a ReLU's corner."""
        gradients = sample(self._program, self._shard)
        return statistics.median(disagreement(a, b) for a, b in zip(gradients, self._references, strict=True))

    def _rounds(self, request: Request) -> Iterator[float]:
        until = time.perf_counter() + self._seconds
        while True:
            began = time.perf_counter()
            self._program.answer(request, "train", range(self._shard))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            yield time.perf_counter() - began
            if time.perf_counter() > until:
                return


def _layers(config: Config, plan: Plan) -> Iterator[Plan]:
    # Where auto says general, the network has no layers of another form, or this machine cannot compute them.
    if config.engine.layers == "auto" and plan.layers != "general":
        # Compiling takes long, and does not change which form is faster by much.
        quick = replace(plan, compile="graph") if plan.compile == "inductor" else plan
        for layers in get_args(Layers):
            yield replace(quick, layers=layers, notes=())


def _compilers(config: Config, plan: Plan) -> Iterator[Plan]:
    if config.engine.compile == "auto":
        for compile_ in get_args(Compile):
            yield replace(plan, compile=compile_, notes=())


def _differentiations(config: Config, plan: Plan) -> Iterator[Plan]:
    free = config.engine.differentiation == "auto" and ESTIMATORS.options[config.algorithm.estimator].through_steps
    if free and hasattr(config.algorithm, "inner_steps"):
        for way in get_args(Differentiation):
            yield replace(plan, differentiation=way, notes=())


def _chunks(config: Config, plan: Plan) -> Iterator[Plan]:
    if config.engine.chunk != "auto":
        return
    for size in sorted({config.run.shard // 2**halvings or 1 for halvings in range(6)}, reverse=True):
        if config.run.shard % size == 0:
            yield replace(plan, chunk=size, notes=())
