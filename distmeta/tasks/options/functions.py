"""The settings of a family that a plain function stands for: what the function's signature takes. No torch here."""

from __future__ import annotations

import functools
import inspect
import typing
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, PydanticUserError, TypeAdapter, create_model, model_validator
from pydantic_core import PydanticSerializationError, to_jsonable_python

from distmeta.config.anchors import anchored
from distmeta.config.sections import Examples, TaskOptions, Ways
from distmeta.errors import ConfigError
from distmeta.tasks.base import Episode

SIZES = ("ways", "shots", "queries")
"""What evaluation may set otherwise, where the function takes it."""

_WANTED = "expected a function of one task, task(split, generator, **settings) -> (support, query)"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class FunctionOptions(TaskOptions):
    """Settings under ``tasks`` where ``kind`` names a function of one task: what its signature takes, and ``ways``.

    ``objective`` is ``cross_entropy`` where there are ``ways``, and ``squared_error`` otherwise.

    Attributes:
        takes: names of the function's parameters that are settings.
        ways: classes a task; ``None`` in regression.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    ways: Ways | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_objective(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("objective") is None:
            ways = values.get("ways", cls.model_fields["ways"].default)
            return {**values, "objective": "squared_error" if ways is None else "cross_entropy"}
        return values

    def arguments(self, episode: Episode) -> dict[str, Any]:
        """The keyword arguments with which the function is called for tasks of this size."""
        values = {name: getattr(self, name) for name in self.takes}
        return {name: getattr(episode, name) if name in SIZES else value for name, value in values.items()}


class OpenFunctionOptions(FunctionOptions):
    """Settings of a function that ends in ``**settings``: it gets those of any name."""

    model_config = ConfigDict(extra="allow")

    shots: Examples | None = None
    queries: Examples | None = None

    def arguments(self, episode: Episode) -> dict[str, Any]:
        """The keyword arguments with which the function is called; of the sizes those that are set."""
        sizes = {name: getattr(episode, name) for name in SIZES if getattr(self, name) is not None}
        return {**(self.model_extra or {}), **sizes, **super().arguments(episode)}


def function_options(kind: str, function: Callable[..., Any]) -> type[FunctionOptions]:
    """The settings of a function ``task(split, generator, **settings)``.

    Every parameter but the first two is a setting: of the type that its annotation says, any value where it says none,
    with the signature's default. Defaults that YAML cannot hold (functions, arrays) are no settings; the function has
    them anyway. A relative ``pathlib.Path`` is one below the working directory of whoever reads the configuration.

    Raises:
        ConfigError: it does not take ``split`` and ``generator``, or something that cannot be a setting.

    >>> def task(split, generator, noise: float = 0.1, shots: int = 5): ...
    >>> options = function_options("module:mine.task", task)
    >>> options.model_validate({"kind": "module:mine.task", "noise": 1}).model_dump(exclude={"kind", "metrics"})
    {'objective': 'squared_error', 'ways': None, 'noise': 1.0, 'shots': 5}
    """
    parameters = _parameters(kind, function)
    hints = _hints(function)
    settings = {
        name: (_annotation(name, hints.get(name, Any), default), default)
        for name, parameter in parameters.items()
        if parameter.kind in _NAMED and not name.startswith("_") and (default := _default(parameter)) is not _NONE
    }
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    base = OpenFunctionOptions if takes_any else FunctionOptions
    try:
        with warnings.catch_warnings():  # a parameter may have the name of one of pydantic's methods
            warnings.simplefilter("ignore")
            fields: dict[str, Any] = settings
            made = create_model("OwnFunctionOptions", __base__=base, **fields)
    except (PydanticUserError, NameError, TypeError, ValueError) as error:
        raise ConfigError(
            f"tasks.kind = {kind!r}: the parameters of the function cannot all be settings "
            f"({str(error).splitlines()[0]}); call them otherwise"
        ) from None
    made.takes = tuple(settings)
    return made


def _parameters(kind: str, function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters beside ``split`` and ``generator``, those that can be given by name or have a default."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError(
            f"tasks.kind = {kind!r}: {_WANTED}, but its signature cannot be read; write it in Python"
        ) from None
    try:
        given = signature.bind_partial("train", None).arguments
    except TypeError:
        raise ConfigError(f"tasks.kind = {kind!r}: {_WANTED}, but its signature is {signature}") from None
    found = {name: each for name, each in signature.parameters.items() if name not in given}
    if len(given) < 2 and not any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
        raise ConfigError(f"tasks.kind = {kind!r}: {_WANTED}, but its signature is {signature}")
    for name, each in found.items():
        nameless = each.kind is each.POSITIONAL_ONLY or (each.kind in _NAMED and name.startswith("_"))
        if nameless and each.default is each.empty:
            raise ConfigError(
                f"tasks.kind = {kind!r}: its parameter {name!r} cannot be given by name; call it otherwise"
            )
        if each.kind in _NAMED and name in TaskOptions.model_fields:
            raise ConfigError(
                f"tasks.kind = {kind!r}: its parameter {name!r} has the name of a setting that every family has; call "
                "it otherwise"
            )
    return found


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by parameter; none where they cannot be read."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    try:
        return typing.get_type_hints(inspect.unwrap(plain), include_extras=True)
    except Exception:  # names that only a type checker knows
        return {}


_NONE = object()
"""In the place of a default that is no value of a setting."""


def _default(parameter: inspect.Parameter) -> Any:
    """A parameter's default as YAML has it, so that the function gets the same in every process."""
    if parameter.default is parameter.empty:
        return ...
    try:
        return to_jsonable_python(parameter.default)
    except (PydanticSerializationError, ValueError):
        return _NONE


def _annotation(name: str, annotation: Any, default: Any) -> Any:
    """What a setting may be."""
    if name in SIZES and annotation in (Any, int):
        annotation = Ways if name == "ways" else Examples
    if annotation is Path or annotation == (Path | None):
        annotation = Annotated[annotation, AfterValidator(_anchored)]
    if default is None and annotation is not Any:
        annotation = annotation | None
    try:
        TypeAdapter(annotation)
    except (PydanticUserError, TypeError):  # what YAML knows nothing of, an array for example
        return Any
    return annotation


def _anchored(path: Path | None) -> Path | None:
    """Workers and resumed runs may have another working directory."""
    return None if path is None else Path(anchored(str(path)))
