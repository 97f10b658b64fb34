"""How a run computes: the decisions that change rounding, taken once and stored with the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from distmeta.config.schema import Config, EngineOptions
from distmeta.config.text import shown

log = logging.getLogger(__name__)

Differentiation = Literal["reverse", "mixed"]
Compile = Literal["none", "graph", "inductor"]
Layers = Literal["native", "products", "general"]
Precision = Literal["float32", "tf32", "bf16"]
Running = Literal["mapped", "looped", "plain"]
"""Tasks of a chunk together by ``torch.func.vmap``; one by one, by ``torch.func``; one by one, by plain autograd."""

ACTIVATIONS = {"native": 64 * 2**20, "products": 16 * 2**20, "general": 16 * 2**20}
"""Bytes of a chunk's activations in one forward pass on a CPU; beyond, larger chunks gain nothing or lose the cache."""

GRAPH_REPAYS = 8
"""Chunks of a run from which recording a chunk's operations is repaid."""

INDUCTOR_REPAYS = 30_000
"""Tasks of a run from which compiling them is repaid; compiling takes ten seconds or so."""

MIXED_REPAYS = 8
"""Inner steps beyond which reverse mode's memory costs more than the recomputation of mixed mode."""

LONGEST_GRAPH = 16
"""Inner steps up to which a whole adaptation is recorded; longer ones take too long to record and to compile."""


@dataclass(frozen=True)
class Plan:
    """Taken by the first worker at the start of a run, followed by all workers, kept in every checkpoint.

    Attributes:
        running: how tasks are computed; the first of :data:`Running` that works.
        reason: why tasks are not mapped, in the words of the operation that cannot be.
        chunk: tasks of a shard that are computed together; ``None`` for all of them.
        layers: what computes convolutions and batch norms.
        compile: whether the mapped operations are recorded, or compiled.
        precision: of products.
        differentiation: of the exact estimator.
        notes: what a user should hear about these decisions.
    """

    running: Running = "mapped"
    reason: str = ""
    chunk: Annotated[int, Field(gt=0)] | None = None
    layers: Layers = "general"
    compile: Compile = "none"
    precision: Precision = "float32"
    differentiation: Differentiation = "reverse"
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that a checkpoint holds.

        Raises:
            ValueError: naming the value that is unknown or wrong.
        """
        read = dict(values)
        if isinstance(mapped := read.get("mapped"), bool):  # of a run before there was a third way
            read["running"] = "mapped" if mapped else "looped"
            del read["mapped"]
        unknown = [name for name in read if name not in {field.name for field in fields(cls)}]
        if unknown:
            raise ValueError(f"plan.{shown(unknown[0])[1:-1]}: there is no such value in this version of distmeta")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(read), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, ("plan", *first["loc"])))
            raise ValueError(f"{place}: {first['msg']}, got {shown(first['input'])}") from None

    @property
    def announcement(self) -> str:
        """What a user should hear where tasks are not mapped; empty where they are."""
        if self.running == "mapped":
            return ""
        way = ", by plain autograd" if self.running == "plain" else ""
        return f"tasks are computed one by one{way}, not mapped together: {self.reason}"

    def settings(self) -> dict[str, Any]:
        """The values of the section ``engine`` that ask for this plan."""
        names = ("chunk", "compile", "precision", "differentiation", "layers")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run that is evaluated, with what it was decided for.

    Attributes:
        plan: of the run.
        engine: the run's section ``engine``.
        fingerprint: of the run's workers.
    """

    plan: Plan
    engine: EngineOptions
    fingerprint: Mapping[str, Any]

    def unfit(self, engine: EngineOptions, device: str, compiler: Callable[[], str | None]) -> str:
        """Why the plan does not serve with these settings and this device; empty where it does.

        Args:
            engine: what is asked for now.
            device: ``cpu`` or ``cuda``.
            compiler: finds the C++ compiler here; ``None`` where there is none.
        """
        asked = {name: value for name, value in engine.model_dump().items() if value != getattr(self.engine, name)}
        if asked:
            return ", ".join(f"engine.{name}={value} is asked for" for name, value in asked.items())
        before = "cpu" if self.fingerprint.get("device") == "cpu" else "cuda"
        if before != device:
            return f"the run computed on {self.fingerprint.get('device')}, this is {device}"
        # Only in the fingerprints of runs whose plan needs one.
        if "compiler" in self.fingerprint and self.fingerprint["compiler"] != (here := compiler()):
            return f"the run's C++ compiler was {self.fingerprint['compiler']}, here it is {here or 'missing'}"
        return ""


@dataclass(frozen=True)
class Facts:
    """What a plan depends on beside the configuration.

    Attributes:
        device: ``cpu`` or ``cuda``.
        task_layers: whether the network has layers with a task-batched form.
        iterative: whether adaptation goes by steps.
        activations: bytes of one task's activations in a forward pass, the mean over those of a meta-gradient.
        no_compiler: why there is no C++ compiler; ``None`` where there is one.
    """

    device: str
    task_layers: bool
    iterative: bool
    activations: int
    no_compiler: str | None


def decide(config: Config, facts: Facts, *, training: bool = True) -> Plan:
    """The plan: what the configuration asks for, and where it says ``auto``, a pure function of its arguments.

    - ``layers``: ``native`` on a CPU with a C++ compiler, ``products`` on CUDA, in networks that have such layers.
    - ``differentiation``: ``mixed`` beyond ``MIXED_REPAYS`` inner steps.
    - ``chunk``: the largest divisor of a shard that keeps to ``ACTIVATIONS``; the whole shard on CUDA.
    - ``compile``: ``graph`` from ``GRAPH_REPAYS`` chunks in the whole run, ``inductor`` from ``INDUCTOR_REPAYS`` tasks;
      ``none`` where a whole adaptation is too long to be recorded.
    - ``precision``: ``float32``.

    Without training it counts the tasks of the meta-test, and is ``graph`` at most: measurements are never compiled.
    """
    engine, notes = config.engine, []
    steps = getattr(config.algorithm, "inner_steps", 0)
    precision: Precision = "float32" if engine.precision == "auto" else engine.precision
    layers: Layers = _layers(facts, precision) if engine.layers == "auto" else engine.layers
    if facts.no_compiler and facts.device == "cpu" and (engine.layers == "auto" or engine.compile == "auto"):
        notes.append(f"computing without compiled code, which is slower: {facts.no_compiler}")
    if not facts.task_layers:
        layers = "general"
    chunk = _chunk(config.run.shard, facts, layers) if engine.chunk == "auto" else engine.chunk
    recorded = _compile(config, facts, steps, chunk or config.run.shard, training)
    return Plan(
        chunk=chunk,
        layers=layers,
        compile=recorded if engine.compile == "auto" else engine.compile,
        precision=precision,
        differentiation=_differentiation(config, facts, steps),
        notes=tuple(notes),
    )


def _layers(facts: Facts, precision: Precision) -> Layers:
    if facts.device == "cuda":
        return "products"
    return "general" if facts.no_compiler or precision != "float32" else "native"


def _compile(config: Config, facts: Facts, steps: int, chunk: int, training: bool) -> Compile:
    tasks = config.run.steps * config.run.meta_batch if training else config.evaluation.tasks
    if tasks < GRAPH_REPAYS * chunk or steps > LONGEST_GRAPH:
        return "none"
    if not training or tasks < INDUCTOR_REPAYS or (facts.device == "cpu" and facts.no_compiler):
        return "graph"
    return "inductor"


def _differentiation(config: Config, facts: Facts, steps: int) -> Differentiation:
    if config.engine.differentiation != "auto":
        return config.engine.differentiation
    long = config.algorithm.estimator == "exact" and facts.iterative and steps > MIXED_REPAYS
    return "mixed" if long else "reverse"


def _chunk(shard: int, facts: Facts, layers: Layers) -> int:
    limit = shard if facts.device == "cuda" else max(1, ACTIVATIONS[layers] // max(1, facts.activations))
    return max(size for size in range(1, shard + 1) if shard % size == 0 and size <= limit)


def announce(plan: Plan) -> None:
    """Say how a run computes."""
    if plan.announcement:
        log.warning("%s", plan.announcement)
    for note in plan.notes:
        log.warning("%s", note)
    log.info("engine: %s", ", ".join(f"{name} {value}" for name, value in plan.settings().items()))
