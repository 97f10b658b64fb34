"""A module's copy that runs on tensors it is given, and keeps nothing of a call."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distmeta.core.records import Inputs
from distmeta.errors import ConfigError
from distmeta.functional.copying import copy_module
from distmeta.functional.forward import forward
from distmeta.functional.inputs import map_inputs
from distmeta.functional.inspection import counters, slots
from distmeta.functional.interception import Interception, Written
from distmeta.functional.normalisation import stage_layers
from distmeta.functional.objects import contents, refill, within
from distmeta.functional.places import Place


class _Missing:
    """Stands for an attribute that there was not."""


class Converted:
    """A copy of a module, each call of which is as the first one.

    Args:
        module: stays as it is.

    Attributes:
        module: the copy, of the same classes.
        written: what its norms write in training mode.
        updated_buffers: names of the buffers that a call writes, and therefore gets as copies.
        writes_inputs: whether a call writes its inputs, and therefore gets a copy.
        differentiates: whether a call differentiates by itself; ``None`` until one without grad mode has shown it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy_module(module)
        stage_layers(self.module)
        self.written: Written = "nothing"
        self.updated_buffers: frozenset[str] = frozenset()
        self.writes_inputs = False
        self.differentiates: bool | None = None
        self._slots = slots(self.module)
        self._parameter_names = {name for name, _ in self.module.named_parameters()}
        self._counters = tuple(counters(self.module))
        self._kept: list[tuple[str, str, bool, Any]] = []
        self._contents: list[tuple[Any, Any]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Converted:
        other = copy.copy(self)
        memo[id(self)] = other
        other.module = copy_module(self.module, memo)
        other._kept = copy.deepcopy(self._kept, memo)
        other._contents = copy.deepcopy(self._contents, memo)
        return other

    def state(self, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
        """A value for every place of the module that holds a parameter or a buffer; tied places get the same."""
        values = dict(self.module.named_parameters())
        for name, buffer in self.module.named_buffers():
            updated = self.written == "all" or name in self.updated_buffers
            values[name] = buffer.clone() if updated else buffer  # type: ignore[assignment]
        values |= parameters  # type: ignore[arg-type]
        state: dict[str, Any] = {slot: values[name] for slot, name in self._slots.items()}
        for counter in self._counters:
            # Without a counter a norm counts nothing.
            state[counter] = None if self.written == "nothing" else state[counter].clone()
        return state

    def __call__(self, state: dict[str, Any], inputs: Inputs, mode: Interception) -> Any:
        """What ``forward`` returns.

        Args:
            state: of :meth:`state`; values that ``forward`` replaces are replaced in it.
            inputs: never written, except by transforms that refuse to.
            mode: of one call.
        """
        # Only outside of transforms can it depend on values whether inputs are written.
        if self.writes_inputs or torch._C._functorch.maybe_current_level() is None:
            inputs = map_inputs(inputs, torch.clone)
        return self.run(state, inputs, mode)

    def run(self, state: dict[str, Any], inputs: Inputs, mode: Interception) -> Any:
        """The same with inputs that may be written."""
        try:
            with mode:
                outputs, differentiates = forward(
                    self.module, state, inputs, tied=False, differentiates=self.differentiates
                )
            if not torch.is_grad_enabled():
                self.differentiates = differentiates
            return outputs
        finally:
            self._restore()

    def is_parameter(self, slot: str) -> bool:
        """Whether a place holds a parameter, else a buffer."""
        return self._slots[slot] in self._parameter_names

    def add_updated(self, places: Iterable[str]) -> None:
        """Note that calls write what is in these places."""
        names = {self._slots[slot] for slot in places}
        self.updated_buffers |= names - self._parameter_names

    def forget(self, places: Iterable[Place]) -> None:
        """Let these attributes hold after every call what they hold now, so that nothing of a call stays in them."""
        for place in places:
            if place.layer is not None:
                value = self._owner(place.layer, place.buffer).get(place.key, _Missing)
                self._kept.append((place.layer, place.key, place.buffer, value))
                # In place, since others may lead to the same list or object.
                self._contents += [(each, held) for each in within(value) if (held := contents(each)) is not None]

    def remember(self) -> None:
        """Keep after all what :meth:`forget` let go."""
        self._kept, self._contents = [], []

    def _restore(self) -> None:
        for path, name, buffer, value in self._kept:
            owner = self._owner(path, buffer)
            if value is _Missing:
                owner.pop(name, None)
            else:
                owner[name] = value
        for each, held in self._contents:
            refill(each, held)

    def _owner(self, path: str, buffer: bool) -> dict[str, Any]:
        layer = self.module.get_submodule(path)
        return layer._buffers if buffer else vars(layer)


def one_tensor(outputs: Any) -> Tensor:
    """What a module has returned.

    Raises:
        ConfigError: it is something else than a tensor.
    """
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"the model returns {type(outputs).__name__}, but one tensor of outputs is expected; wrap it "
            "in a module that returns the outputs alone"
        )
    return outputs
