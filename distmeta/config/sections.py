"""The sections of a configuration: each class checks its own settings; what spans several, the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    PrivateAttr,
    Tag,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_serializer,
    field_validator,
    model_validator,
)

from distmeta.core.secrets import mask

if TYPE_CHECKING:
    from typing_extensions import Self

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Steps = Annotated[int, Field(ge=0, lt=2**40)]
Tasks = Annotated[int, Field(gt=0, le=2**22)]
"""Tasks at once: their shards make a short list, and a task's id in the last of all steps is below 2**63."""

Examples = Annotated[int, Field(gt=0, le=2**22)]
"""Of a class, or of a task without classes."""

Ways = Annotated[int, Field(ge=2)]
"""Classes of a task."""

Threads = Annotated[int, Field(gt=0, le=1024)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _takes_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_bool, get_args(annotation)))


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes ``True`` for the number 1, and so does pydantic."""
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"expected something else than true and false, got {str(value).lower()}")
        return value

    def __repr__(self) -> str:
        return mask(super().__repr__())

    def __str__(self) -> str:
        return mask(super().__str__())


class SizeRange(Section):
    """A size of tasks that is drawn anew for every meta-step: from ``min`` to ``max``, each number as likely."""

    min: Examples
    max: Examples

    @model_validator(mode="after")
    def _check_order(self) -> SizeRange:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is more than max = {self.max}")
        return self


class WaysRange(SizeRange):
    """Classes of tasks that are drawn anew for every meta-step: from ``min`` to ``max``, each number as likely."""

    min: Ways


def _by_section(value: Any) -> str:
    return "section" if isinstance(value, Mapping | SizeRange) else "number"


DrawnShots = Annotated[
    Annotated[Examples, Tag("number")] | Annotated[SizeRange, Tag("section")], Discriminator(_by_section)
]
"""Support examples of a class or task: a number, or a range to draw from for every meta-step."""

DrawnWays = Annotated[Annotated[Ways, Tag("number")] | Annotated[WaysRange, Tag("section")], Discriminator(_by_section)]
"""Classes of a task, likewise."""


def limits(size: int | SizeRange) -> tuple[int, int]:
    """The least and the most of a size.

    >>> limits(5), limits(SizeRange(min=1, max=3))
    ((5, 5), (1, 3))
    """
    return (size.min, size.max) if isinstance(size, SizeRange) else (size, size)


class ObjectiveOptions(Section):
    """Settings that every objective has; objectives add their own."""

    name: str


def _as_given(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Settings of an objective as they are, checked when they were made; anything else is checked as declared."""
    return value if isinstance(value, ObjectiveOptions) else check(value)


def _written(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, ObjectiveOptions) else value


ObjectiveSetting = Annotated[str | ObjectiveOptions, WrapValidator(_as_given), PlainSerializer(_written)]
"""An objective: its name, or a section with ``name`` and settings of its own."""


class TaskOptions(Section):
    """Settings that every task family has; families add their own.

    ``objective`` is the loss with its metrics, an entry of :data:`distmeta.objectives.OBJECTIVES`, or a section with
    its ``name`` and its settings; each family has a default. ``metrics`` chooses among those that fit the objective
    (:data:`distmeta.objectives.metrics.KNOWN_METRICS`); models are selected by the first. What a family calls ``ways``,
    ``shots`` and ``queries``, evaluation may set otherwise.
    """

    kind: str
    objective: str | ObjectiveOptions
    metrics: Annotated[list[str], Field(min_length=1)] | None = None

    # Of the field, whatever a family declares: `objective: str = "huber"` takes settings as well.
    _given_objective = field_validator("objective", mode="wrap")(_as_given)
    _written_objective = field_serializer("objective")(_written)

    _fitted: Mapping[str, Any] | None = PrivateAttr(default=None)

    @property
    def fitted(self) -> Mapping[str, Any] | None:
        """What the family has learned from its training split, JSON values, where it learns something.

        It is no setting: it goes with the settings from process to process and lies in a checkpoint's ``fitted.json``.
        """
        return self._fitted

    def with_fitted(self, fitted: Mapping[str, Any] | None) -> Self:
        """The same settings with what the family has learned."""
        copied = self.model_copy()
        copied._fitted = fitted
        return copied


class ModelOptions(Section):
    """Settings that every model has.

    Attributes:
        sequential: whether the network takes examples as the steps of one sequence.
        in_context: whether it reads a support set beside the query.
    """

    sequential: ClassVar[bool] = False
    in_context: ClassVar[bool] = False

    kind: str


class AlgorithmOptions(Section):
    """Settings that every algorithm has; its adaptation and its estimator add their own.

    ``adaptation`` and ``estimator`` default to the named entry's pair.
    """

    name: str
    adaptation: str
    estimator: str


class AdaptationOptions(Section):
    """Settings of an adaptation under ``algorithm``, and what a configuration has to know of it.

    Attributes:
        iterative: whether it goes by inner steps.
        needs_head: whether the network ends in a head of ``outputs`` numbers, or in an embedding.
        needs_classes: whether the objective must be a classification.
        joint_alone: whether it is trained by the estimator ``joint`` alone.
        program: the entry of :data:`distmeta.programs.PROGRAMS` that it needs, where the tasks' own does not do.
    """

    iterative: ClassVar[bool]
    needs_head: ClassVar[bool]
    needs_classes: ClassVar[bool]
    joint_alone: ClassVar[bool] = False
    program: ClassVar[str | None] = None


class EstimatorOptions(Section):
    """Settings of an estimator under ``algorithm``, and what a configuration has to know of it.

    Attributes:
        needs_steps: whether the adaptation must be one by inner steps.
        through_steps: whether it differentiates all inner steps, in the ways of ``engine.differentiation``.
        curved: whether it needs second derivatives of the inner loss.
        of_outputs: whether its meta-gradient is that of the query's outputs, see ``Estimator.outputs``.
        of_policies: whether it is for reinforcement-learning tasks alone.
        in_phases: whether it computes otherwise as a run goes on.
        keyed: whether it draws random numbers for each task.
        joint: whether it fits all tasks together, without adaptation.
        program: the entry of :data:`distmeta.programs.PROGRAMS` that it needs for reinforcement-learning tasks, where
            their own does not do.
    """

    program: ClassVar[str | None] = None
    in_phases: ClassVar[bool] = False
    keyed: ClassVar[bool] = False
    curved: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    needs_steps: ClassVar[bool] = False
    through_steps: ClassVar[bool] = False
    of_outputs: ClassVar[bool] = False
    of_policies: ClassVar[bool] = False

    @classmethod
    def refuse(cls, options: Any) -> str | None:
        """Why these algorithm settings make no sense with this estimator; ``None`` where they do."""
        return None


class OuterOptions(Section):
    """What every outer step has; the others stand in :mod:`distmeta.outer.options`.

    ``name`` is an entry of :data:`distmeta.outer.OUTER`. ``on_nonfinite`` says what becomes of a meta-step whose loss
    or meta-gradient is not finite: ``stop`` ends the run, ``skip`` leaves the step out, at most ``max_skips`` in a row,
    and then ends it too.

    Attributes:
        requests: what it asks of workers.
        repeats: whether it asks one thing several times a meta-step.
    """

    requests: ClassVar[tuple[str, ...]] = ()
    repeats: ClassVar[bool] = False

    name: str
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skips: PositiveInt = 10

    @property
    def passes(self) -> int:
        """How often a meta-step computes with each of its tasks, about."""
        return 1


class RunOptions(Section):
    """How long, in what pieces, and what is kept.

    ``tasks_per_shard`` is the unit of work that a worker takes; it divides ``meta_batch`` and never depends on the
    number of workers. Left out, it is the largest divisor of ``meta_batch`` that is at most 8 and at most half of it.
    ``threads`` is the number of CPU threads of a worker, in process too. ``keep`` is the number of newest checkpoints
    kept beside the best one. ``*_every`` count meta-steps; 0 means never (the last step is always checkpointed).
    """

    steps: Steps = 1000
    meta_batch: Tasks = 32
    tasks_per_shard: PositiveInt | None = None
    threads: Threads = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate_every: NonNegativeInt = 0
    checkpoint_every: NonNegativeInt = 0
    log_every: PositiveInt = 10
    dir: str = "runs"
    keep: PositiveInt = 2

    @model_validator(mode="after")
    def _check_shard(self) -> RunOptions:
        if self.tasks_per_shard is None:
            limit = max(1, min(8, self.meta_batch // 2))
            largest = max(n for n in range(1, limit + 1) if self.meta_batch % n == 0)
            object.__setattr__(self, "tasks_per_shard", largest)
        if self.meta_batch % self.shard:
            divisors = [n for n in range(1, self.meta_batch + 1) if self.meta_batch % n == 0]
            raise ValueError(
                f"run.tasks_per_shard = {self.shard} does not divide run.meta_batch = {self.meta_batch}; "
                f"use one of {', '.join(map(str, divisors))}"
            )
        return self

    @property
    def shard(self) -> int:
        """Tasks in a shard."""
        assert self.tasks_per_shard is not None
        return self.tasks_per_shard


class EvaluationOptions(Section):
    """Meta-validation and meta-test tasks; what is left out is as in training.

    ``tasks`` counts meta-test tasks, ``validation_tasks`` those of each validation. ``seed`` picks both,
    independently of the run's seed. With ``mean_actions``, in reinforcement learning, returns are those of the most
    likely actions instead of drawn ones, which inner steps still learn from.
    """

    tasks: Tasks = 600
    validation_tasks: Tasks = 200
    ways: PositiveInt | None = None
    shots: Examples | None = None
    queries: Examples | None = None
    inner_steps: NonNegativeInt | None = None
    seed: Seed = 0
    mean_actions: bool = False


class EngineOptions(Section):
    """How meta-gradients are computed; everything here changes rounding or speed, never what is computed.

    ``auto`` is a function of the model, the shapes, the device kind and the length of the run, never of a timing
    (:func:`distmeta.programs.deciding.decide`); ``distmeta plan`` measures the alternatives and writes values.

    ``chunk`` is the number of tasks of a shard that are computed together. ``compile``: ``none`` runs the mapped Python
    code, ``graph`` records its operations once and repeats them, ``inductor`` lets torch's compiler fuse them (it needs
    a C++ compiler on a CPU). ``precision``: ``tf32`` is for products on CUDA, ``bf16`` computes layers in bfloat16.
    ``differentiation`` of the exact estimator: ``reverse``, or ``mixed``, whose memory hardly grows with inner steps.
    ``layers``: ``native`` computes convolutions and batch norms of a CPU by C++ kernels, ``products`` by batched matrix
    products, ``general`` as the module does.
    """

    chunk: PositiveInt | Literal["auto"] = "auto"
    compile: Literal["auto", "none", "graph", "inductor"] = "auto"
    precision: Literal["auto", "float32", "tf32", "bf16"] = "auto"
    differentiation: Literal["auto", "reverse", "mixed"] = "auto"
    layers: Literal["auto", "native", "products", "general"] = "auto"

    @model_validator(mode="after")
    def _check_precision(self) -> EngineOptions:
        if self.precision == "bf16" and self.layers == "native":
            raise ValueError("engine.layers = native computes in float32; engine.precision = bf16 needs other layers")
        return self


class WorkerRange(Section):
    """A number of workers that follows the cluster: the run starts with ``min`` and takes up to ``max``."""

    min: PositiveInt = 1
    max: PositiveInt

    @model_validator(mode="after")
    def _check_order(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"cluster.workers.min = {self.min} is more than cluster.workers.max = {self.max}")
        return self


WorkerCount = Annotated[
    Annotated[NonNegativeInt | Literal["auto"], Tag("number")] | Annotated[WorkerRange, Tag("section")],
    Discriminator(lambda value: "section" if isinstance(value, Mapping | WorkerRange) else "number"),
]


class ClusterOptions(Section):
    """Where workers run.

    ``workers: 0`` computes in this process, without Ray. A number starts with that many and replaces those that are
    lost. ``auto`` is one worker per GPU, or per core where there is none, and ``{min, max}`` between these bounds;
    both follow the cluster as nodes join and leave. ``gpus_per_worker`` is 1 where the cluster has GPUs, unless it says
    otherwise. ``address`` names a running Ray cluster (``HOST:PORT`` or ``auto``); without one Ray starts on this
    machine alone. ``hang_seconds``: a worker that is silent for this long, and for ten times what its work has taken,
    is given up and replaced; for six times as long where its work may have to be recorded or compiled, which is so in
    its first work and in validation and test. ``allow_mixed`` lets workers of different hardware share a run, which
    gives up bit-identical results.
    """

    workers: WorkerCount = 0
    cpus_per_worker: PositiveFloat = 1
    gpus_per_worker: NonNegativeFloat | None = None
    address: str | None = None
    hang_seconds: PositiveFloat = 10.0
    allow_mixed: bool = False

    @model_validator(mode="after")
    def _check_address(self) -> ClusterOptions:
        if self.address is not None and self.workers == 0:
            raise ValueError(
                f"cluster.address = {self.address} has no use with cluster.workers = 0, which computes in this "
                "process; set cluster.workers to auto or a number"
            )
        return self
