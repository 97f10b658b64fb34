"""What the user's code gives for one task, as arrays of the types that tasks have; or refused, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distmeta.core.quoting import shown
from distmeta.core.records import Split
from distmeta.errors import DataError

Arrays = Mapping[str, NDArray[Any]]
"""Inputs and targets of a support or query set by name, each (N, ...): float32, int64 or bool."""


@dataclass(frozen=True)
class TaskName:
    """A task, as messages name it.

    Attributes:
        kind: what ``tasks.kind`` says.
        split: of the task.
        id: its global id.
    """

    kind: str
    split: Split
    id: int

    def __str__(self) -> str:
        return f"tasks.kind = {shown(self.kind)}, task {self.id} of the {self.split} split"

    def refuse(self, problem: str) -> DataError:
        """The error that says what is wrong with this task."""
        return DataError(f"{self}: {problem}")


@dataclass(frozen=True)
class Targets:
    """What ``y`` should be.

    Attributes:
        objective: what ``tasks.objective`` says.
        classes: whether it is about classes.
        ways: number of classes; ``None`` where that is not said.
    """

    objective: str
    classes: bool
    ways: int | None


@dataclass(frozen=True)
class TaskArrays:
    """One task."""

    support: Arrays
    query: Arrays

    @property
    def parts(self) -> dict[str, Arrays]:
        """Support and query by name."""
        return {"support": self.support, "query": self.query}

    def digest(self) -> str:
        """A hash of all that is in it."""
        digest = hashlib.sha256()
        for part, arrays in self.parts.items():
            for name in sorted(arrays):
                array = np.ascontiguousarray(arrays[name])
                digest.update(f"{part} {name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Shape and type of an example's inputs by name, as JSON values."""
        return {
            name: {"shape": list(array.shape[1:]), "dtype": str(array.dtype)}
            for name, array in self.support.items()
            if name != "y"
        }

    def outputs(self, targets: Targets) -> int:
        """How many numbers a network gives for one example: the ways, or the dimension of ``y``."""
        if targets.classes:
            assert targets.ways is not None
            return targets.ways
        return int(self.support["y"].shape[-1])


def read_task(given: Any, task: TaskName, targets: Targets) -> TaskArrays:
    """What the user's code has returned for a task, copied and checked.

    Args:
        given: ``(support, query)``, each ``(x, y)``, or ``(inputs, y)`` with inputs by name; arrays of NumPy or torch.
        task: which one, for messages.
        targets: what ``y`` should be.

    Raises:
        DataError: naming the task, support or query, the array, what was expected and what was found.

    >>> x, y = np.zeros((3, 2)), np.array([0.0, 1.0, 2.0])
    >>> one = read_task(((x, y), (x, y)), TaskName("mine", "train", 0), Targets("squared_error", False, None))
    >>> one.inputs(), one.support["y"].shape
    ({'x': {'shape': [2], 'dtype': 'float32'}}, (3, 1))
    """
    if not (isinstance(given, (tuple, list)) and len(given) == 2):
        raise task.refuse(f"expected (support, query), but it returned {_described(given)}")
    support, query = (_part(name, part, task, targets) for name, part in zip(("support", "query"), given, strict=True))
    if support.keys() != query.keys():
        raise task.refuse(f"support has the inputs {_names(support)}, and query {_names(query)}; give both the same")
    for name, array in support.items():
        other = query[name]
        if array.shape[1:] != other.shape[1:] or array.dtype != other.dtype:
            raise task.refuse(
                f"query {name}: expected {_kind(array)}, as in the support set, but it has {_kind(other)}"
            )
    return TaskArrays(support, query)


def check_alike(found: TaskArrays, first: TaskArrays, task: TaskName, reference: str) -> None:
    """Refuse a task whose arrays have other names, types or shapes than those of the first one.

    Args:
        found: the task.
        first: the one that it should be like.
        task: which one, for messages.
        reference: which one the first is, for messages.

    Raises:
        DataError: naming the array, the shape expected and the shape found.
    """
    for part, expected in first.parts.items():
        arrays = found.parts[part]
        if arrays.keys() != expected.keys():
            raise task.refuse(f"{part} has the inputs {_names(arrays)}, expected {_names(expected)}, as in {reference}")
        for name, array in expected.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise task.refuse(
                    f"{part} {name}: expected {array.dtype} numbers of shape {array.shape}, as in {reference}, but "
                    f"found {arrays[name].dtype} numbers of shape {arrays[name].shape}; all tasks of a split have the "
                    "same shapes"
                )


def _part(part: str, given: Any, task: TaskName, targets: Targets) -> dict[str, NDArray[Any]]:
    """Inputs and targets of a support or query set."""
    if not (isinstance(given, (tuple, list)) and len(given) == 2):
        raise task.refuse(f"{part}: expected (x, y), or (inputs by name, y), but it is {_described(given)}")
    inputs, y = given
    if isinstance(inputs, Mapping):
        _check_names(part, inputs, task)
        arrays = {str(name): _array(f"{part} {name}", value, task) for name, value in inputs.items()}
    else:
        arrays = {"x": _array(f"{part} x", inputs, task)}
    arrays["y"] = _targets(part, _array(f"{part} y", y, task), task, targets)
    count = len(arrays["y"])
    for name, array in arrays.items():
        if len(array) != count:
            raise task.refuse(f"{part} {name} has {len(array)} examples, and {part} y has {count}; give both the same")
    if count == 0:
        raise task.refuse(f"{part} has no examples; give at least one")
    return arrays


def _check_names(part: str, inputs: Mapping[Any, Any], task: TaskName) -> None:
    if not inputs:
        raise task.refuse(f"{part}: there are no inputs; give at least one array by name")
    for name in inputs:
        if not (isinstance(name, str) and name.isidentifier()) or name == "y" or (name == "x" and len(inputs) > 1):
            raise task.refuse(
                f"{part}: {shown(name)} cannot be the name of one of several inputs, which are the network's keyword "
                "arguments; call it otherwise (x is a single input, y the targets)"
            )


def _array(name: str, value: Any, task: TaskName) -> NDArray[Any]:
    """Some examples' numbers."""
    try:
        array = numbers(value)
    except ValueError as error:
        raise task.refuse(f"{name} {error}") from None
    if array.ndim == 0:
        raise task.refuse(f"{name} is a single number; expected an array with a row an example")
    return array


def numbers(value: Any) -> NDArray[Any]:
    """A copy of an array or a tensor as float32, int64 or bool.

    A copy, since the user's code may fill the same memory again.

    Raises:
        ValueError: saying what it is instead, as words that follow its name.

    >>> numbers(np.array([1, 2], dtype=np.int16)).dtype, numbers(np.ones(2)).dtype
    (dtype('int64'), dtype('float32'))
    """
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        value = _of_tensor(value)
    elif isinstance(value, np.ma.MaskedArray):
        value = unmasked(value)
    elif not isinstance(value, np.ndarray):
        raise ValueError(f"is {_described(value)}; expected an array of NumPy or a tensor of torch")
    kind = value.dtype.kind
    if value.dtype == object:
        raise ValueError("is ragged, or holds objects; give an array of numbers of one shape")
    if kind not in "fiub":
        raise ValueError(f"holds {value.dtype} values; give real or whole numbers")
    if kind == "f":
        return _finite(value)
    if kind == "b":
        return np.array(value, order="C")
    if kind == "u" and value.size and int(value.max()) >= 2**63:
        raise ValueError(f"holds {int(value.max())}, which is more than int64 can hold")
    return np.array(value, dtype=np.int64, order="C")


def unmasked(value: np.ma.MaskedArray[Any, Any]) -> NDArray[Any]:
    """The numbers of a masked array of NumPy, of which nothing is masked: what stands under a mask is no number.

    Raises:
        ValueError: something is masked.
    """
    masked = np.argwhere(np.ma.getmaskarray(value))
    if len(masked):
        raise ValueError(
            f"is a masked array, of which {len(masked):,} of {value.size:,} values are masked, the first at "
            f"{masked[0].tolist()}; fill them in (.filled(...)), or leave such examples out"
        )
    return np.asarray(value.data)


def _of_tensor(value: Any) -> NDArray[Any]:
    try:
        plain = value.detach().cpu()
        plain = plain.float() if plain.is_floating_point() and plain.element_size() < 4 else plain
        array: NDArray[Any] = plain.numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised, on the device meta
        raise ValueError(
            f"cannot be read ({' '.join(str(error).split())[:200]}); give a dense tensor of numbers"
        ) from None
    return array


def _finite(value: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float32] = np.array(value, dtype=np.float32, order="C")
    if not np.isfinite(found).all():
        bad = np.argwhere(~np.isfinite(found))
        place = tuple(bad[0].tolist())
        raise ValueError(
            f"holds numbers that are not finite in float32: {len(bad):,} of {found.size:,}, the first is "
            f"{value[place]} at {list(place)}"
        )
    return found


def _targets(part: str, y: NDArray[Any], task: TaskName, targets: Targets) -> NDArray[Any]:
    """``y`` as the objective wants it: (N,) class indices, or (N, D) values."""
    section = "tasks" if task.split == "train" else "evaluation"
    if targets.classes:
        if y.dtype == np.float32:
            raise task.refuse(
                f"{part} y holds floating-point numbers, but tasks.objective = {targets.objective} is about classes: "
                "give whole numbers 0, 1, ..., or set tasks.objective to a regression, squared_error for example"
            )
        if y.ndim != 1:
            raise task.refuse(f"{part} y: expected class indices of shape (N,), but it has the shape {y.shape}")
        if targets.ways is None:
            raise task.refuse(
                f"{part} y holds whole numbers, which are classes; set tasks.ways to the number of classes of a task"
            )
        labels = y.astype(np.int64)
        wrong = np.flatnonzero((labels < 0) | (labels >= targets.ways))
        if len(wrong):
            raise task.refuse(
                f"{part} y names class {labels[wrong[0]]} (example {wrong[0]}), but {section}.ways = {targets.ways}: "
                f"expected 0 to {targets.ways - 1}"
            )
        return labels
    if y.dtype != np.float32 and targets.objective == "squared_error":
        raise task.refuse(
            f"{part} y holds whole numbers, which are classes; set tasks.ways to the number of classes of a task, or "
            "give floating-point numbers for regression"
        )
    values = y.astype(np.float32)
    if values.ndim == 1:
        return values[:, None]
    if values.ndim != 2 or values.shape[1] == 0:
        raise task.refuse(f"{part} y: expected values of shape (N,) or (N, D), but it has the shape {y.shape}")
    return values


def _names(arrays: Arrays) -> str:
    return ", ".join(name for name in arrays if name != "y")


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype} examples of shape {tuple(array.shape[1:])}"


def _described(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} of shape {tuple(shape)}" if isinstance(shape, tuple) else type(value).__name__
