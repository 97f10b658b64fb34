"""Programs: what a worker runs. Supervised tasks have one; other kinds of task stand beside it."""

from __future__ import annotations

import torch

from distmeta.config.schema import Config
from distmeta.programs.base import Blueprint, Program


def blueprint(config: Config) -> Blueprint:
    """The learner's view of the configured program."""
    from distmeta.programs.engine.assembly import Assembly

    return Assembly(config)


def open_program(config: Config, device: torch.device) -> Program:
    """The configured program on this device, with its data opened."""
    from distmeta.programs.supervised import SupervisedProgram

    return SupervisedProgram(config, device)


__all__ = ["Blueprint", "Program", "blueprint", "open_program"]
