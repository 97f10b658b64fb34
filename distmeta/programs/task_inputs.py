"""What a caller gives for one task, as tensors that a trained model takes; or refused, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distmeta.adaptations import Support
from distmeta.config.schema import Config
from distmeta.core.records import Data, TensorSpec
from distmeta.errors import ConfigError
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.targets import check_bounds
from distmeta.tasks import TASKS, TaskFamily


class TaskInputs:
    """Checks examples against the tasks that a model was trained for, and copies them to its device.

    They are copies, so that nothing that a module does to its inputs reaches the caller's tensors, and nothing that the
    caller does to them later reaches an adapted model.

    Args:
        config: of the run.
        parts: what the configuration stands for.
        device: of the model.
    """

    def __init__(self, config: Config, parts: Assembly, device: torch.device) -> None:
        family = TASKS[config.tasks.kind]
        spec = family.spec(config.tasks)
        self._encode, self._encode_targets, self._decode = (
            partial(getattr(family, name, getattr(TaskFamily, name)), config.tasks)
            for name in ("encode", "encode_targets", "decode")
        )
        self._inputs = spec.inputs
        self._outputs = spec.outputs
        self._objective = parts.objective
        self.ways = (config.evaluation.ways or spec.outputs) if parts.adaptation.needs_head else None
        self._device = device

    def support(self, x: Any, y: Any) -> Support:
        """The support set of (S, ...) inputs and (S,) labels or (S, D) values.

        Raises:
            ConfigError: shapes, types, values or labels that do not fit the model.
        """
        inputs = self.inputs(x, "x_support")
        encoded = self._encode_targets(y)
        targets = _tensor(y if encoded is None else encoded, "y_support")
        count = len(targets) if targets.dim() else 0
        examples = len(next(iter(inputs.values())))
        if examples != count:
            raise ConfigError(f"the support set has {examples} inputs and {count} targets; give one for each input")
        if not self._objective.classes:
            return Support({**inputs, "y": self._values(targets)})
        labels = _labels(targets)
        return Support({**inputs, "y": labels.to(self._device)}, self._count(labels))

    def sampled(self, data: Data) -> Support:
        """A support set as the task family samples it."""
        here = {name: value.to(self._device) for name, value in data.items()}
        return Support(here, self._count(data["y"].cpu()) if self._objective.classes else None)

    def inputs(self, values: Any, name: str) -> dict[str, Tensor]:
        """Inputs of N examples as a task's data: ``x``, or tensors by the tasks' names.

        Raises:
            ConfigError: what is given is not what the tasks have.
        """
        encoded = self._encode(values)
        values = values if encoded is None else encoded
        if isinstance(self._inputs, TensorSpec):
            return {"x": self._input(values, name, self._inputs)}
        given = dict(values) if isinstance(values, Mapping) else {}
        if given.keys() != self._inputs.keys():
            raise ConfigError(f"{name} should hold the tensors {', '.join(self._inputs)} by name, as in training")
        found = {key: self._input(given[key], f"{name}[{key!r}]", spec) for key, spec in self._inputs.items()}
        if len({len(value) for value in found.values()}) > 1:
            raise ConfigError(f"{name} holds tensors of different numbers of examples; give each the same number")
        return found

    def outputs(self, outputs: Tensor) -> Tensor:
        """A model's outputs as its user wants them."""
        decoded: Tensor = self._decode(outputs)
        return decoded

    def _input(self, values: Any, name: str, spec: TensorSpec) -> Tensor:
        """(N, ...) inputs of the shape and the kind of numbers that the tasks have."""
        x = _tensor(values, name)
        if x.dim() == 0 or tuple(x.shape[1:]) != spec.shape:
            raise ConfigError(
                f"{name} should have the shape (N, {', '.join(map(str, spec.shape))}), as in training, but has "
                f"{tuple(x.shape)}"
            )
        if len(x) == 0:
            raise ConfigError(f"{name} has 0 inputs; give at least one")
        dtype: torch.dtype = getattr(torch, spec.dtype)
        if not dtype.is_floating_point:
            if x.is_floating_point():
                raise ConfigError(f"{name} holds {x.dtype} numbers, but the model was trained on {dtype}; give these")
            return _copied(_within(x, spec, name), self._device, dtype, name)
        if not x.is_floating_point():
            scaled = "x.float() / 255, intensities in [0, 1]," if len(spec.shape) == 3 else "x.float()"
            raise ConfigError(
                f"{name} holds {x.dtype} numbers, but the model was trained on floating-point ones; give for example "
                f"{scaled} on the scale of the training tasks"
            )
        return self._finite(x, name)

    def _values(self, y: Tensor) -> Tensor:
        """(S, D) float32 targets of a regression."""
        if y.dim() != 2 or y.shape[1] != self._outputs:
            raise ConfigError(f"y_support should have the shape (S, {self._outputs}), but has {tuple(y.shape)}")
        values = self._finite(y, "y_support")
        check_bounds(self._objective, values, "y_support")
        return values

    def _finite(self, values: Tensor, name: str) -> Tensor:
        """A float32 copy of finite numbers on the device."""
        numbers = _copied(values, self._device, torch.float32, name)
        finite = torch.isfinite(numbers).flatten(1).all(1)
        if not finite.all():
            raise ConfigError(
                f"{name} holds numbers that are not finite in float32: {int((~finite).sum())} of {len(numbers)} "
                f"examples have some, the first is example {int((~finite).nonzero()[0])}; leave them out or mend them"
            )
        return numbers

    def _count(self, labels: Tensor) -> int:
        """The number of classes of a support set, checked."""
        ways = int(labels.max()) + 1
        if self.ways is not None:
            if ways > self.ways:
                raise ConfigError(
                    f"y_support names class {ways - 1}, but the model was trained for {self.ways} ways: "
                    f"0 to {self.ways - 1}"
                )
            return self.ways
        present = torch.unique(labels)
        if len(present) < ways:
            missing = int((present != torch.arange(len(present))).nonzero()[0])
            raise ConfigError(f"y_support has no example of class {missing}; number the classes 0, 1, ... without gaps")
        return ways


def _tensor(values: Any, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ConfigError(
            f"{name} cannot be read as a tensor ({' '.join(str(error).split())}); give a tensor, a NumPy array or "
            "lists of numbers"
        ) from None
    if kind := _unusual(tensor):
        raise ConfigError(f"{name} is {kind}; give a dense tensor of real numbers")
    return tensor


def _within(x: Tensor, spec: TensorSpec, name: str) -> Tensor:
    """The whole numbers, if they are among those that the tasks have."""
    if spec.values is not None and ((x < 0) | (x >= spec.values)).any():
        raise ConfigError(
            f"{name} holds numbers from {int(x.min())} to {int(x.max())}, but the model knows 0 to "
            f"{spec.values - 1:,}; encode the examples as in training"
        )
    return x


def _unusual(tensor: Tensor) -> str | None:
    """What a tensor is, if it is none of plain numbers."""
    if tensor.is_complex():
        return "complex numbers"
    if tensor.is_meta:
        return "a tensor of the device meta, which has no values"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantized tensor"
    return None if tensor.layout is torch.strided else f"a tensor of layout {tensor.layout}"


def _copied(values: Tensor, device: str | torch.device, dtype: torch.dtype, name: str) -> Tensor:
    """A copy as plain numbers."""
    try:
        return values.to(device, dtype, copy=True)
    except NotImplementedError:  # types that torch only stores, such as bits8
        raise ConfigError(
            f"{name} holds {values.dtype} values, which torch cannot convert to {dtype}; convert them yourself"
        ) from None


def _labels(y: Tensor) -> Tensor:
    """(S,) int64 class indices on the CPU."""
    whole = not (y.is_floating_point() or y.dtype == torch.bool)
    labels = _copied(y, "cpu", torch.int64, "y_support") if whole else y
    if y.dtype == torch.uint64 and (labels < 0).any():  # these are beyond int64
        largest = int(labels[labels < 0].max()) + 2**64
        raise ConfigError(f"y_support names class {largest}; number the classes 0, 1, ... without gaps")
    if y.dim() != 1 or not whole or labels.min() < 0:
        raise ConfigError(
            f"y_support holds class indices: expected (S,) integers 0, 1, ..., got {y.dtype} of shape {tuple(y.shape)}"
            + (f" down to {int(labels.min())}" if whole and y.dim() == 1 else "")
        )
    return labels
