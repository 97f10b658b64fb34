"""One validated configuration: a YAML file plus ``key=value`` overrides, every limit checked here.

The sections ``tasks``, ``model`` and ``algorithm`` have settings of their own for each kind; a kind's settings are the
options class of its entry in the registry, so a new kind needs no change here.
"""

from __future__ import annotations

from typing import Annotated, Any

import yaml
from pydantic import (
    Field,
    SerializeAsAny,
    model_validator,
)

from distmeta.config.migrations import CONFIG_MIGRATIONS, SCHEMA, newest
from distmeta.config.sections import (
    AlgorithmOptions,
    ClusterOptions,
    EngineOptions,
    EvaluationOptions,
    ModelOptions,
    OuterOptions,
    RunOptions,
    Section,
    Seed,
    SizeRange,
    TaskOptions,
)
from distmeta.core.secrets import masked


class Config(Section):
    """The whole configuration of a run; :func:`load_config` makes one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    seed: Seed = 0
    tasks: SerializeAsAny[TaskOptions]
    model: SerializeAsAny[ModelOptions]
    algorithm: SerializeAsAny[AlgorithmOptions]
    outer: SerializeAsAny[OuterOptions]
    run: RunOptions = RunOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    cluster: ClusterOptions = ClusterOptions()
    engine: EngineOptions = EngineOptions()
    callbacks: tuple[Annotated[str, Field(pattern=r"^(wandb|mlflow|module:.+)$")], ...] = ()

    @model_validator(mode="after")
    def _resolve_evaluation(self) -> Config:
        evaluation = self.evaluation
        sizes = {name: getattr(self.tasks, name, None) for name in ("ways", "shots", "queries")}
        for name, size in sizes.items():
            if size is None and getattr(evaluation, name) is not None:
                raise ValueError(f"evaluation.{name} has no meaning for tasks.kind = {self.tasks.kind}; leave it out")
            if isinstance(size, SizeRange) and getattr(evaluation, name) is None:
                raise ValueError(
                    f"tasks.{name} is drawn for every meta-step, and validation and test tasks are all of one size; "
                    f"set evaluation.{name} to a number"
                )
        steps = getattr(self.algorithm, "inner_steps", None)
        if steps is None and evaluation.inner_steps is not None:
            raise ValueError(
                f"evaluation.inner_steps has no meaning for algorithm.name = {self.algorithm.name}, which takes no "
                "inner steps; leave it out"
            )
        resolved = evaluation.model_copy(
            update={
                **{name: getattr(evaluation, name) or size for name, size in sizes.items()},
                "inner_steps": evaluation.inner_steps if evaluation.inner_steps is not None else steps,
            }
        )
        object.__setattr__(self, "evaluation", resolved)
        return self

    @model_validator(mode="after")
    def _check_chunk(self) -> Config:
        if self.engine.chunk != "auto" and self.engine.chunk > self.run.shard:
            raise ValueError(
                f"engine.chunk = {self.engine.chunk} is more than a shard, run.tasks_per_shard = {self.run.shard}; "
                "chunks are parts of a shard"
            )
        if self.engine.precision == "tf32" and self.run.device == "cpu":
            raise ValueError("engine.precision = tf32 is a mode of CUDA devices, and run.device = cpu; use float32")
        return self


CALLBACKS = "callbacks"
"""The setting that says who is told of a run, and decides nothing of it."""


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that :func:`load_config` takes back; secrets of URIs are masked."""
    return yaml.safe_dump(written_values(config), sort_keys=False)


def written_values(config: Config) -> dict[str, Any]:
    """The resolved configuration as JSON values, as they may be written down: secrets of URIs are masked.

    They begin with the version that they are written in, which is no setting.
    """
    return {SCHEMA: newest(CONFIG_MIGRATIONS), **masked(config.model_dump(mode="json"))}
