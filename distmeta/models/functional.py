"""A user's ``nn.Module`` as a pure function of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from distmeta.errors import ConfigError
from distmeta.kernels import Form
from distmeta.models.convolution import TaskConv2d, filter_layout, use_task_filters
from distmeta.models.dropout import KeyedDropout
from distmeta.models.inspection import aliases, drops, head
from distmeta.models.normalisation import TaskBatchNorm, fuse_rectifiers, recording, replay, use_task_statistics


class FunctionalModule:
    """Runs a copy of a module with given parameters, under ``torch.func`` transforms with ``vmap`` outermost.

    What the module computes is unchanged, except that nothing is written: a batch norm in training mode uses
    the statistics of the batch and updates no running ones; one in evaluation mode keeps its running
    statistics as constants; other buffers and frozen parameters (``requires_grad=False``) are constants.
    Training flags of submodules stay as the user set them.

    Args:
        module: on any device; it is copied and never changed.
        example: inputs of shape (N, ...), N > 1. With it, one forward pass finds functional dropout,
            functional attention, buffers that the module updates, and randomness that cannot be keyed.
            Without it, dropout and attention are found only as submodules (``nn.Dropout*``,
            ``nn.MultiheadAttention``).

    Attributes:
        parameters: the trainable parameters under the module's own names, tied ones once, under their first
            name.
        frozen: names of the other parameters.
        tied: other name of a tied parameter -> its first name.
        head: names of the parameters of the head: of the submodule ``head`` if there is one, else of the last
            ``nn.Linear`` if nothing trainable comes after it, else none.
        uses_batch_statistics: whether outputs for one example depend on the others.
        uses_dropout: whether outputs depend on ``key``.
        activations: numbers that the module's layers give for one example, 0 without ``example``.

    Raises:
        ConfigError: the module cannot be copied, has lazy parameters without a size yet, or draws random
            numbers that no key controls.

    >>> module = nn.Linear(2, 1)
    >>> network = FunctionalModule(module)
    >>> inputs = torch.ones(3, 2)
    >>> torch.equal(network(network.parameters, inputs), module(inputs))
    True
    """

    def __init__(self, module: nn.Module, example: Tensor | None = None) -> None:
        self._module = _copy(module)
        self._batch_norms = use_task_statistics(self._module)
        fuse_rectifiers(self._module)
        self._convolutions = use_task_filters(self._module)
        filters = {id(layer.weight) for layer in self._convolutions}
        self._filters = frozenset(name for name, value in self._module.named_parameters() if id(value) in filters)
        self.tied = aliases(module)
        self.parameters: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad
        }
        self.frozen = tuple(name for name, _ in module.named_parameters() if name not in self.parameters)
        # What a state dict holds beside the trainable parameters, running statistics included.
        self._constants = {
            name: value.detach().clone()
            for name, value in module.state_dict().items()
            if self.tied.get(name, name) not in self.parameters
        }
        self._state_names = tuple(module.state_dict())
        first_names = dict.fromkeys(self.tied.get(name, name) for name in head(module))
        self.head = tuple(name for name in first_names if name in self.parameters)
        self.uses_batch_statistics = bool(self._batch_norms)
        self.uses_dropout = any(map(drops, module.modules()))
        self._uses_attention = any(isinstance(layer, nn.MultiheadAttention) for layer in module.modules())
        self._updated_buffers: frozenset[str] = frozenset()
        self.activations = 0
        self._compute: torch.dtype | None = None
        if example is not None:
            self._probe(example)

    def __call__(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, *, key: Tensor | None = None, draw: int = 0
    ) -> Tensor:
        """The module's outputs for these inputs.

        Args:
            parameters: all names of :attr:`parameters`.
            inputs: (N, ...) of one task.
            key: (2,) int64, two 32-bit words that fix the dropout masks; ``None`` turns dropout off.
            draw: tells the uses of a key apart, for example the inner step; below 2^32.

        Raises:
            ConfigError: a batch norm gets one value a channel, or the module returns something else than a
                tensor.
        """
        if parameters.keys() != self.parameters.keys():
            wrong = sorted(parameters.keys() ^ self.parameters.keys())
            raise ValueError(f"expected a value for each trainable parameter and nothing else; look at {wrong}")
        # Attention is intercepted for its kernel, also where nothing is dropped.
        if not (self.uses_dropout or self._uses_attention):
            return self._forward(parameters, inputs)
        with KeyedDropout(key, draw):
            return self._forward(parameters, inputs)

    def with_support_statistics(
        self, parameters: Mapping[str, Tensor], support_inputs: Tensor, query_inputs: Tensor
    ) -> Tensor:
        """Inductive prediction: every batch norm normalises the query by the support's statistics.

        Each query example's outputs depend on no other query example. Dropout is off.

        Args:
            parameters: all names of :attr:`parameters`.
            support_inputs: (S, ...).
            query_inputs: (Q, ...), Q may be 1.

        Returns:
            (Q, ...) outputs.

        Raises:
            ConfigError: as :meth:`__call__`, for the support.
        """
        with recording(self._batch_norms):
            if self._batch_norms:
                self(parameters, support_inputs)
            replay(self._batch_norms)
            return self(parameters, query_inputs)

    def use(self, form: Form | None, compute: torch.dtype | None = None) -> None:
        """How to compute from now on.

        Args:
            form: the task-batched implementation of convolutions and batch norms; ``None``: as the module does.
            compute: floating-point type of the layers; ``None``: that of the parameters. Outputs have the
                parameters' type in any case.
        """
        self._compute = compute
        layers: list[TaskConv2d | TaskBatchNorm] = [*self._convolutions, *self._batch_norms]
        for layer in layers:
            layer.form = form

    @property
    def has_task_layers(self) -> bool:
        """Whether there is a layer that :meth:`use` makes a difference to."""
        return bool(self._convolutions or self._batch_norms)

    def arrange(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same parameters, filters of convolutions lying in memory as the task-batched layers want them.

        Names may have a prefix up to a slash, as those of meta-parameters do.
        """
        return {
            name: filter_layout(value) if value.dim() == 4 and name.rpartition("/")[2] in self._filters else value
            for name, value in parameters.items()
        }

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FunctionalModule:
        """Move parameters and constants, or change their floating-point type, in place; returns self."""
        self._module.to(device=device, dtype=dtype)
        self.parameters = {name: value.to(device, dtype) for name, value in self.parameters.items()}
        return self

    def state_dict(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What ``module.load_state_dict(..., strict=True)`` of the original module takes.

        Args:
            parameters: values for all names of :attr:`parameters`.

        Returns:
            Every name of the module's own state: the given values, tied ones under each of their names as
            separate copies, and frozen parameters and buffers as they were in the original.
        """
        return {
            name: self._constants[name].clone()
            if name in self._constants
            else parameters[self.tied.get(name, name)].detach().clone()
            for name in self._state_names
        }

    def _forward(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        buffers = {
            name: buffer.clone() if name in self._updated_buffers else buffer
            for name, buffer in self._module.named_buffers()
        }
        state, usual = {**buffers, **parameters}, None
        if self._compute is not None:
            usual = next(iter(parameters.values())).dtype
            state = {name: _cast(value, self._compute) for name, value in state.items()}
            inputs = _cast(inputs, self._compute)
        outputs = functional_call(self._module, state, (inputs,), tie_weights=bool(self.tied))
        if not isinstance(outputs, Tensor):
            raise ConfigError(
                f"the model returns {type(outputs).__name__}, but one tensor of outputs is expected; wrap it "
                "in a module that returns the outputs alone"
            )
        return outputs if usual is None else outputs.to(usual)

    def _probe(self, example: Tensor) -> None:
        """Learn from one forward pass what the list of submodules does not show."""
        self._updated_buffers = frozenset(name for name, _ in self._module.named_buffers())
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        key = torch.zeros(2, dtype=torch.int64, device=example.device)
        devices = [example.device] if example.is_cuda else []
        with torch.random.fork_rng(devices), torch.no_grad(), KeyedDropout(key) as mode, self._counting(len(example)):
            before = _random_state(example.device)
            functional_call(self._module, {**buffers, **self.parameters}, (example,), tie_weights=bool(self.tied))
            if not torch.equal(before, _random_state(example.device)):
                raise ConfigError(
                    "the model draws random numbers that cannot be repeated from a task's key (torch.rand, "
                    "dropout of nn.LSTM, ...); use nn.Dropout or the dropout functions of torch.nn.functional"
                )
        self._updated_buffers = frozenset(name for name, buffer in buffers.items() if buffer._version)
        self.uses_dropout |= mode.dropouts > 0
        self._uses_attention |= mode.attentions > 0

    @contextmanager
    def _counting(self, examples: int) -> Iterator[None]:
        """Count what the innermost layers give for each of so many examples."""

        def count(layer: nn.Module, inputs: Any, outputs: Any) -> None:
            self.activations += outputs.numel() // examples if isinstance(outputs, Tensor) else 0

        leaves = [layer for layer in self._module.modules() if not any(layer.children())]
        hooks = [layer.register_forward_hook(count) for layer in leaves]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _copy(module: nn.Module) -> nn.Module:
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ConfigError("the model has lazy parameters without a size; run it once on an example first")
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ConfigError(
            f"the model cannot be copied: {error}; it should hold no results of computations as attributes"
        ) from error


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
