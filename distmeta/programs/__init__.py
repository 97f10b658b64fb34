"""Programs: what a worker runs. Supervised tasks have one; other kinds of task stand beside it."""

from __future__ import annotations

import torch

from distmeta.adaptations import ADAPTATIONS
from distmeta.config.problems import choose
from distmeta.config.registry import Registry
from distmeta.config.schema import Config
from distmeta.config.sections import Section
from distmeta.errors import ConfigError
from distmeta.estimators import ESTIMATORS
from distmeta.programs.base import Blueprint, Program
from distmeta.tasks import TASKS
from distmeta.tasks.options import EnvironmentOptions

PROGRAMS: Registry[Program, Section] = Registry(
    "TaskSpec.program",
    "a class with the methods of distmeta.programs.base.Program",
    {
        "supervised": (None, "distmeta.programs.supervised:SupervisedProgram"),
        "reinforcement": (None, "distmeta.programs.reinforcement:ReinforcementProgram"),
        "evolving": (None, "distmeta.programs.evolving:EvolvingProgram"),
        "recurrent": (None, "distmeta.programs.recurrent:RecurrentProgram"),
    },
)


def _program(config: Config) -> type[Program]:
    """The program that the family's tasks are for, or that adaptation or estimator need."""
    spec, algorithm = TASKS[config.tasks.kind].spec(config.tasks), config.algorithm
    own = ADAPTATIONS.options[algorithm.adaptation].program
    if isinstance(config.tasks, EnvironmentOptions):
        own = own or ESTIMATORS.options[algorithm.estimator].program
    try:
        found: type[Program] = choose(PROGRAMS, own or spec.program, "TaskSpec.program")
    except ValueError as error:
        raise ConfigError(f"tasks.kind = {config.tasks.kind}: {error}") from None
    return found


def blueprint(config: Config) -> Blueprint:
    """The learner's view of the configured program."""
    return _program(config).blueprint(config)


def open_program(config: Config, device: torch.device) -> Program:
    """The configured program on this device, with its data opened."""
    return _program(config)(config, device)


__all__ = ["PROGRAMS", "Blueprint", "Program", "blueprint", "open_program"]
