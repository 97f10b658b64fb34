"""Families that a plain function stands for: ``task(split, generator, **settings) -> (support, query)``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from distmeta.config.sections import TaskOptions
from distmeta.core.records import Split
from distmeta.errors import ConfigError
from distmeta.tasks.base import Episode, TaskFamily
from distmeta.tasks.making import TaskMaker, generator_of
from distmeta.tasks.one_by_one import OneByOneFamily, targets_of
from distmeta.tasks.options.functions import FunctionOptions, function_options


class FunctionFamily(OneByOneFamily):
    """The tasks that a function of the user's makes, one call a task.

    The function gets the split, a generator that is keyed by (seed, split, id), and the other settings under ``tasks``
    as keyword arguments; it returns support and query, each ``(x, y)``, or ``(inputs, y)`` with inputs by name.

    Attributes:
        function: the user's.
    """

    function: ClassVar[Callable[..., Any]]

    @classmethod
    def maker(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> TaskMaker:
        """Calls the function."""
        assert isinstance(options, FunctionOptions)
        function, given = vars(cls)["function"], {split: options.arguments(each) for split, each in episodes.items()}

        def make(split: Split, task: int) -> Any:
            # Copies: a function may change what it is given.
            return function(split, generator_of(episodes[split].seed, split, task), **copy.deepcopy(given[split]))

        return TaskMaker(options.kind, make, {split: targets_of(options, each) for split, each in episodes.items()})

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """See that sizes which evaluation sets otherwise reach the function, then as every such family."""
        assert isinstance(options, FunctionOptions)
        for split, episode in episodes.items():
            if episode.ways != options.ways and "ways" not in options.arguments(episode):
                raise ConfigError(
                    f"evaluation.ways = {episode.ways}, but tasks.ways = {options.ways}, and the function of "
                    f"tasks.kind = {options.kind} takes no ways, so that it cannot make the {split} split's tasks of "
                    "another size; give it a parameter ways, or leave evaluation.ways out"
                )
        super().prepare(options, episodes)

    @classmethod
    def fingerprint(cls, options: TaskOptions) -> Mapping[str, str]:
        """The version of NumPy, which does not promise the generator's streams between versions; and a task."""
        return {"numpy": np.__version__, **super().fingerprint(options)}


class FunctionEntries:
    """How the registry of task families makes families of functions."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[Callable[..., Any], type[FunctionFamily]]] = {}

    def options(self, kind: str, function: Callable[..., Any]) -> type[TaskOptions]:
        """What the function's signature takes."""
        return self.entry(kind, function).Options

    def entry(self, kind: str, function: Callable[..., Any]) -> type[TaskFamily]:
        """The function's family, one class for each."""
        key = (kind, id(function))
        if key not in self._known:  # with the function, whose id is nobody else's then
            members = {"function": function, "Options": function_options(kind, function)}
            self._known[key] = function, type("FunctionFamily", (FunctionFamily,), members)
        return self._known[key][1]


FUNCTIONS = FunctionEntries()
"""Of the registry."""
