"""A user's ``nn.Module`` as a pure function of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from distmeta.core.records import Inputs
from distmeta.functional.checks import check_parameters
from distmeta.functional.conversion import Converted, one_tensor
from distmeta.functional.convolution import filter_layout, filters
from distmeta.functional.heads import output_layer
from distmeta.functional.inputs import map_inputs
from distmeta.functional.inspection import aliases, drops, normalises_by_batch, state_names
from distmeta.functional.interception import Interception
from distmeta.functional.kernels import Form
from distmeta.functional.normalisation import SupportStatistics
from distmeta.functional.probing import Probe
from distmeta.models.base import Model


class FunctionalModule:
    """Runs a copy of a module with given parameters, under ``torch.func`` transforms with ``vmap`` outermost.

    What the module computes is unchanged, except that nothing is written: a batch norm in training mode uses
    the statistics of the batch and updates no running ones; one in evaluation mode keeps its running
    statistics as constants; other buffers and frozen parameters (``requires_grad=False``) are constants.
    Training flags of submodules stay as the user set them.

    Args:
        module: on any device; it is copied and never changed.
        example: inputs of shape (N, ...), N > 1. With it, a few passes find functional dropout and batch norms,
            what the module writes and keeps, and what cannot be relied on (see
            :class:`~distmeta.functional.probing.Probe`). Without it, only submodules are looked at.
        build: gives the same module newly built, to compare with it; ``None``: a copy is compared with.

    Attributes:
        parameters: the trainable parameters under the module's own names, tied ones once, under their first
            name.
        frozen: names of the other parameters.
        tied: other name of a tied parameter -> its first name.
        unsaved: names of the module's state dict that hold no tensor (``get_extra_state``).
        uses_batch_statistics: whether outputs for one example depend on the others.
        uses_dropout: whether outputs depend on ``key``.
        activations: numbers that the module's layers give for one example, 0 without ``example``.

    Raises:
        ConfigError: the module cannot be copied, has lazy parameters without a size yet, draws random numbers
            that no key controls, gives outputs that depend on earlier calls, or writes its parameters.

    >>> module = nn.Linear(2, 1)
    >>> network = FunctionalModule(module)
    >>> inputs = torch.ones(3, 2)
    >>> torch.equal(network(network.parameters, inputs), module(inputs))
    True
    """

    def __init__(
        self, module: nn.Module, example: Inputs | None = None, build: Callable[[], nn.Module] | None = None
    ) -> None:
        check_parameters(module)
        self._converted = Converted(module)
        self.tied = aliases(module)
        self.parameters: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in self._converted.module.named_parameters()
            if parameter.requires_grad
        }
        self.frozen = tuple(name for name, _ in module.named_parameters() if name not in self.parameters)
        # What a state dict holds beside the trainable parameters, running statistics included.
        self._trained = state_names(module, self.parameters)
        state = module.state_dict()
        self._constants = {
            name: value.detach().clone()
            for name, value in state.items()
            if name not in self._trained and isinstance(value, Tensor)
        }
        self.unsaved = tuple(name for name, value in state.items() if not isinstance(value, Tensor))
        self._state_names = tuple(name for name in state if name in self._trained or name in self._constants)
        self._example = example
        self.uses_batch_statistics = any(map(normalises_by_batch, module.modules()))
        self.uses_dropout = any(map(drops, module.modules()))
        weights = {id(weight) for weight in filters(self._converted.module)}
        self._filters = frozenset(
            name for name, value in self._converted.module.named_parameters() if id(value) in weights
        )
        self.has_task_layers = bool(weights) or self.uses_batch_statistics
        self.activations = 0
        self._form: Form | None = None
        self._compute: torch.dtype | None = None
        if example is not None:
            # The package's own networks are known; everybody else's are looked at.
            probe = Probe(module, self._converted, self.parameters, example, build)
            found = probe.look(thoroughly=not isinstance(module, Model))
            self.uses_dropout |= found.dropouts > 0
            self.uses_batch_statistics = found.batch_norms > 0
            self.has_task_layers = found.task_layers
            self.activations = found.activations

    def __call__(
        self, parameters: Mapping[str, Tensor], inputs: Inputs, *, key: Tensor | None = None, draw: int = 0
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
        return self._forward(parameters, inputs, key, draw)

    def with_support_statistics(
        self, parameters: Mapping[str, Tensor], support_inputs: Inputs, query_inputs: Inputs
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
        if not self.uses_batch_statistics:
            return self(parameters, query_inputs)
        statistics = SupportStatistics()
        self._forward(parameters, support_inputs, statistics=statistics)
        statistics.replay()
        return self._forward(parameters, query_inputs, statistics=statistics)

    def use(self, form: Form | None, compute: torch.dtype | None = None) -> None:
        """How to compute from now on.

        Args:
            form: the task-batched implementation of convolutions and batch norms; ``None``: as the module does.
            compute: floating-point type of the layers; ``None``: that of the parameters. Outputs have the
                parameters' type in any case.
        """
        self._form, self._compute = form, compute

    @contextmanager
    def as_written(self) -> Iterator[None]:
        """Within the block it computes as the module does, whose layers have derivatives of every order."""
        before = self._form, self._compute
        self.use(None)
        try:
            yield
        finally:
            self.use(*before)

    @cached_property
    def head(self) -> tuple[str, ...]:
        """Names of the trainable parameters of the layer that makes the outputs.

        None where that is not one layer (see :func:`~distmeta.functional.heads.output_layer`), and without ``example``.

        Raises:
            ConfigError: the module cannot run with gradients.
        """
        path = output_layer(self._converted.module, self._example) if self._example is not None else None
        return self.names_below(path) if path is not None else ()

    @cached_property
    def features(self) -> int:
        """Numbers of an example's outputs."""
        assert self._example is not None, "it takes an example to know"
        with torch.no_grad():
            return int(self(self.parameters, map_inputs(self._example, lambda value: value)).shape[-1])

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """Names of the trainable scales and shifts of batch norms that use the statistics of their batch."""
        layers = self._converted.module.named_modules()
        paths = [path for path, layer in layers if normalises_by_batch(layer)]
        return tuple(dict.fromkeys(name for path in paths for name in self.names_below(path)))

    def names_below(self, path: str) -> tuple[str, ...]:
        """Names of the trainable parameters of a submodule, or of one parameter; ``""`` is the whole module.

        A tied parameter is found under each of its names.
        """
        below = (
            self.tied.get(name, name)
            for name, _ in self._converted.module.named_parameters(remove_duplicate=False)
            if not path or name == path or name.startswith(f"{path}.")
        )
        return tuple(name for name in dict.fromkeys(below) if name in self.parameters)

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
        self._converted.module.to(device=device, dtype=dtype)
        self.parameters = {name: value.to(device, dtype) for name, value in self.parameters.items()}
        return self

    def constants(self) -> dict[str, Tensor]:
        """Frozen parameters and buffers, by their names; not copies."""
        named = {**dict(self._converted.module.named_parameters()), **dict(self._converted.module.named_buffers())}
        return {name: value.detach() for name, value in named.items() if name not in self.parameters}

    def tensors(self) -> list[Tensor]:
        """All that no call writes to, so that copies may share it."""
        return [
            *self._converted.module.parameters(),
            *self._converted.module.buffers(),
            *self.parameters.values(),
            *self._constants.values(),
        ]

    def state_dict(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What ``module.load_state_dict(..., strict=True)`` of the original module takes.

        Args:
            parameters: values for all names of :attr:`parameters`.

        Returns:
            Every name of the module's own state dict, as its hooks may call it: the given values, tied ones under
            each of their names as separate copies, and frozen parameters and buffers as they were in the original.
            Those of :attr:`unsaved` are left out.
        """
        return {
            name: self._constants[name].clone()
            if name in self._constants
            else parameters[self._trained[name]].detach().clone()
            for name in self._state_names
        }

    def _forward(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Inputs,
        key: Tensor | None = None,
        draw: int = 0,
        statistics: SupportStatistics | None = None,
    ) -> Tensor:
        state, usual = self._converted.state(parameters), None
        if self._compute is not None:
            usual = next(iter(parameters.values())).dtype
            state = {name: None if value is None else _cast(value, self._compute) for name, value in state.items()}
            compute = self._compute
            inputs = map_inputs(inputs, lambda value: _cast(value, compute))
        written = self._converted.written
        mode = Interception(key, draw, names=state, form=self._form, statistics=statistics, written=written)
        outputs = one_tensor(self._converted(state, inputs, mode))
        return outputs if usual is None else outputs.to(usual)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
