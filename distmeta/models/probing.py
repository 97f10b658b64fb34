"""Learning from a few forward passes what a module's structure does not show, and whether it can be relied on."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from distmeta.errors import ConfigError
from distmeta.kernels import Form
from distmeta.models.conversion import Converted
from distmeta.models.dropout import KeyedDropout
from distmeta.models.hidden_state import Place, Snapshot, holds_generator
from distmeta.models.hints import hint
from distmeta.models.inspection import overlapping, views
from distmeta.models.interception import Interception, Written
from distmeta.models.watching import Randomness, Writes, kept_generators, storage

_ROUNDING = 1e-4
"""Relative difference of outputs that the same operations stay under."""

_LAYERS = 1e-2
"""The same for other implementations of layers, batch norms of two examples among them."""

_PLACES = 8
"""Places that are tried with other values at most."""


@dataclass
class Findings:
    """What a probe has learned beside what it tells the converted module itself.

    Attributes:
        dropouts: calls that have something to drop.
        batch_norms: calls that use the statistics of their batch.
        task_layers: whether there are layers with a task-batched form that computes what the module does.
        activations: numbers that the module's layers give for one example.
    """

    dropouts: int = 0
    batch_norms: int = 0
    task_layers: bool = False
    activations: int = 0


class Probe:
    """Runs copies of a converted module on a few examples, and finds out what it can be relied on for.

    Args:
        module: the user's own.
        converted: its conversion; what is learned of inputs, buffers and attributes that it writes is entered here.
        parameters: the trainable ones.
        example: (N, ...) inputs, N > 1.
    """

    def __init__(
        self, module: nn.Module, converted: Converted, parameters: Mapping[str, Tensor], example: Tensor
    ) -> None:
        self._module = module
        self._converted = converted
        self._parameters = parameters
        self._example = example
        self._inputs = example
        self._key = torch.zeros(2, dtype=torch.int64, device=example.device)

    def look(self, *, thoroughly: bool) -> Findings:
        """What one pass shows, and ``thoroughly`` what more of them do.

        Raises:
            ConfigError: outputs depend on randomness that no key controls or on what is left of other calls, or the
                module writes parameters, or reads them where no others can be put.
        """
        devices = [self._example.device] if self._example.is_cuda else []
        with torch.random.fork_rng(devices), torch.enable_grad(), kept_generators():
            findings, outputs = self._first()
            if thoroughly and isinstance(outputs, Tensor):
                self._inputs = self._typical_inputs()
                changed = self._repeat()
                self._come_between(changed)
                self._try_later_values(changed)
                self._converted.forget(changed)
                self._look_at_views()
                self._compare_with_plain()
                findings.task_layers &= self._has_task_form()
        return findings

    def _first(self) -> tuple[Findings, Any]:
        """The pass in which layers are counted; norms write no more in it than ``forward`` needs to run."""
        failure: Exception | None = None
        for written in get_args(Written):
            self._converted.written = written
            try:
                return self._count()
            except Exception as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def _count(self) -> tuple[Findings, Any]:
        converted, findings = self._copy(), Findings()
        state = converted.state(_live(self._parameters))
        versions = {slot: value._version for slot, value in state.items() if value is not None}
        mode = Interception(self._key, names=state, written=converted.written)
        before = _random_state(self._example.device)
        with _counting(converted.module, findings, len(self._example)), torch.no_grad():
            outputs = converted(dict(state), self._example, mode)
        if not torch.equal(before, _random_state(self._example.device)):
            raise _random("torch's generator (torch.rand, dropout of nn.LSTM, ...)")
        written = [slot for slot, version in versions.items() if state[slot]._version != version]
        self._converted.add_updated(written)
        self._converted.differentiates = converted.differentiates
        findings.dropouts, findings.batch_norms = mode.dropouts, mode.batch_norms
        findings.task_layers = mode.batch_norms + mode.convolutions > 0
        return findings, outputs

    def _typical_inputs(self) -> Tensor:
        """Numbers between 0 and 1 where the module takes them, since zeros hide what they are multiplied with."""
        if not self._example.is_floating_point():
            return self._example
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(self._example.shape, generator=generator).to(self._example)
        return self._example if self._tried(self._copy(), inputs) is None else inputs

    def _repeat(self) -> list[Place]:
        """Equal calls give equal outputs; the places that hold something else after them."""
        converted = self._copy()
        before = Snapshot(converted.module)
        with Randomness() as randomness:
            watched = self._watch(converted, self._inputs)
        try:
            self._expected = self._call(converted, self._inputs) if watched is None else watched
        except Exception as error:
            raise ConfigError(
                f"the model cannot run with gradients: {type(error).__name__}: {error}; {hint(error) or 'correct it'}"
            ) from error
        again = [self._call(converted, self._inputs) for _ in range(2)]
        changed = before.changes(Snapshot(converted.module))
        own = [f"the generator in {place.label}" for place in changed if holds_generator(place.get())]
        if sources := [*own, *randomness.sources]:
            raise _random(sources[0])
        if not all(same(self._expected, outputs) for outputs in again):
            raise _stateful(changed)
        return changed

    def _come_between(self, changed: list[Place]) -> None:
        """Calls with other parameters, inputs and numbers of examples leave nothing that changes later ones."""
        converted = self._copy()
        more = torch.cat([self._inputs, self._inputs])
        for scale, inputs in ((100.0, self._inputs), (0.01, self._inputs.flip(0)), (1.0, more), (1.0, self._example)):
            self._watch(converted, inputs, scale)
        outputs = self._tried(converted, self._inputs)
        if outputs is None or not same(self._expected, outputs):
            raise _stateful(changed)

    def _try_later_values(self, changed: list[Place]) -> None:
        """What counters may come to changes nothing."""
        converted = self._copy()
        self._tried(converted, self._inputs)
        places = Snapshot(converted.module).places
        inner = [place for outer in changed if outer.label in places for place in places[outer.label].inner()]
        counters = [place for place in inner if trials(place.get())]
        for place in counters[:_PLACES]:
            for value in trials(place.get()):
                with place.holding(value):
                    outputs = self._tried(converted, self._inputs)
                if outputs is not None and not same(self._expected, outputs):
                    raise _stateful([place])

    def _look_at_views(self) -> None:
        """Nothing that the module holds beside a parameter is another view of its memory, and changes with it."""
        if pair := overlapping(self._module):
            raise _viewing(f"parameter {pair[1]!r}", pair[0])
        for label, path, name, parameter in views(self._module):
            converted = self._copy()
            owner = converted.module.get_submodule(path)
            own: dict[str, Any] = owner._buffers if name in owner._buffers else vars(owner)
            own[name] = torch.full_like(own[name], torch.nan)
            outputs = self._tried(converted, self._inputs)
            if outputs is None or not same(outputs, self._expected):
                raise _viewing(label, parameter)

    def _compare_with_plain(self) -> None:
        """Given other parameters, the module computes what it does when these are its own."""
        self._moved = {name: _moved(value) for name, value in self._parameters.items()}
        try:
            self._plain = self._call_plainly(self._moved)
        except Exception:  # these values are not for this module
            self._moved = dict(self._parameters)
            self._plain = self._call_plainly(self._moved)
        levels = get_args(Written)
        for written in levels[levels.index(self._converted.written) :]:
            self._converted.written = written
            outputs = self._tried(self._copy(), self._inputs, self._moved)
            if outputs is not None and close(outputs, self._plain, _ROUNDING):
                return
        raise _detached([name for name in self._parameters if not self._arrives(name)])

    def _arrives(self, name: str) -> bool:
        """Whether a parameter that is given has the effect of one that the module holds."""
        moved = {**self._parameters, name: self._moved[name]}
        outputs = self._tried(self._copy(), self._inputs, moved)
        return outputs is not None and close(outputs, self._call_plainly(moved), _ROUNDING)

    def _call_plainly(self, parameters: Mapping[str, Tensor]) -> Tensor:
        module = self._copy().module
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name in parameters:
                    parameter.copy_(parameters[name])
        with KeyedDropout(self._key):
            return module(self._inputs.clone())  # type: ignore[no-any-return]

    def _has_task_form(self) -> bool:
        """Whether the task-batched layers change nothing, as they would where ``forward`` looks at memory layouts."""
        outputs = self._tried(self._copy(), self._inputs, self._moved, "products")
        return outputs is not None and close(outputs, self._plain, _LAYERS)

    def _copy(self) -> Converted:
        """A copy whose buffers stay, whatever is written."""
        converted = copy.deepcopy(self._converted)
        converted.updated_buffers = frozenset(name for name, _ in converted.module.named_buffers())
        return converted

    def _call(
        self,
        converted: Converted,
        inputs: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        form: Form | None = None,
    ) -> Tensor:
        state = converted.state(_live(self._parameters if parameters is None else parameters))
        mode = Interception(self._key, names=state, form=form, written=converted.written)
        return converted(state, inputs, mode)  # type: ignore[no-any-return]

    def _tried(self, *arguments: Any) -> Tensor | None:
        """The result of a call, ``None`` where it fails."""
        with suppress(Exception):
            return self._call(*arguments)
        return None

    def _watch(self, converted: Converted, inputs: Tensor, scale: float = 1.0) -> Tensor | None:
        """A call, ``None`` where it fails, of which is noted what it writes.

        Raises:
            ConfigError: it writes parameters.
        """
        state, inputs, outputs = converted.state(_live(self._parameters, scale)), inputs.clone(), None
        given = {slot: value for slot, value in state.items() if value is not None}
        stored = {slot: storage(value) for slot, value in given.items()}
        watch = Writes({**given, "": inputs})
        with suppress(Exception), watch:
            outputs = converted.run(state, inputs, Interception(self._key, names=given, written=converted.written))
        if watch.generators:
            raise _random("a torch.Generator of its own")
        self._converted.writes_inputs |= watch.found.pop("", None) is not None
        for slot, value in given.items():
            if state[slot] is not value or storage(value) != stored[slot]:
                watch.found.setdefault(slot, "assignment")
        for slot, operation in watch.found.items():
            if converted.is_parameter(slot):
                raise _writing(slot, operation)
        self._converted.add_updated(watch.found)
        return outputs


def _live(parameters: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """Values with derivatives, as in training, that may be written in place."""
    return {name: value.detach().clone().requires_grad_() * scale for name, value in parameters.items()}


def _moved(value: Tensor) -> Tensor:
    """Nearby values, other ones for every element."""
    steps = torch.arange(value.numel(), device=value.device).view(value.shape)
    return value * 1.1 + 0.05 * torch.sin(1.0 + steps).to(value.dtype)


@contextmanager
def _counting(module: nn.Module, findings: Findings, examples: int) -> Iterator[None]:
    """Count what the innermost layers give for each of so many examples."""

    def count(layer: nn.Module, inputs: Any, outputs: Any) -> None:
        findings.activations += outputs.numel() // examples if isinstance(outputs, Tensor) else 0

    leaves = [layer for layer in module.modules() if not any(layer.children())]
    hooks = [layer.register_forward_hook(count) for layer in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two results of the same operations are equal, up to what the order of parallel additions changes."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a, b)) or close(a, b, 1e-4 if a.is_cuda else 1e-6)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two results agree up to rounding, relative to their size."""
    if a.shape != b.shape:
        return False
    a, b = (torch.nan_to_num(value.detach().double()) for value in (a, b))
    return bool((a - b).norm() <= tolerance * (b.norm() + 1e-12))


def trials(value: Any) -> list[Any]:
    """What a number or a list may be after more calls: the next values, and those on which schedules turn.

    A multiple of every period up to 16 and of every round one, and the numbers beside it; thresholds lie below.

    >>> trials(True)
    [False]
    """
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + step for step in range(1, 25)] + [_MULTIPLE - 1, _MULTIPLE, _MULTIPLE + 1, -_MULTIPLE]
    if isinstance(value, float):
        return [0.0, value + 1, value / 2, value * 2, 1e-6, 1e6]
    if isinstance(value, list | deque) and 0 < len(value) <= 100:
        return [value * 7, value * 1000]
    return []


_MULTIPLE = 720720 * 2**12 * 10**6
"""720720 is a multiple of the numbers from 1 to 16."""


def _random(source: str) -> ConfigError:
    return ConfigError(
        f"the model draws random numbers from {source} in forward, and these cannot be repeated from a task's key; use "
        "nn.Dropout or the dropout functions of torch.nn.functional, which are keyed (to leave out a whole block at "
        "random: x + F.dropout(torch.ones(1), p) * block(x))"
    )


def _stateful(places: list[Place]) -> ConfigError:
    names = ", ".join(place.label for place in places[:5])
    where = f"what forward keeps in {names}" if names else "what forward keeps outside of the module, or the time"
    return ConfigError(
        f"the model's outputs depend on earlier calls, by {where}: they would differ with the number of workers; let "
        "them depend on inputs and parameters alone, pass a schedule's value as a constant, or keep it in a buffer "
        "(register_buffer), which every call sees as it is at the start"
    )


def _writing(name: str, operation: str) -> ConfigError:
    return ConfigError(
        f"the model's forward writes its parameter {name!r} in place ({operation}), which adaptation and its "
        "derivatives cannot follow; compute the changed weight without writing it: instead of max_norm, "
        "F.embedding(x, w * (max_norm / w.norm(dim=-1, keepdim=True).clamp(min=1e-7)).clamp(max=1)), or a "
        "parametrisation (torch.nn.utils.parametrize)"
    )


def _viewing(name: str, parameter: str) -> ConfigError:
    return ConfigError(
        f"the model's {name} is another view of the memory of its parameter {parameter!r}, which does not change in "
        f"place here; use {parameter} itself, which may have several names, or make {name} a copy (.detach().clone())"
    )


def _detached(names: list[str]) -> ConfigError:
    which = ", ".join(map(repr, names[:3])) or "its parameters"
    return ConfigError(
        f"the model's outputs do not follow {which} when others are put in their place: forward reads them otherwise "
        "than as attributes of their layers (from a list, a tuple, a tensor made in __init__, a global); read the "
        "attributes in forward, or keep the parameters in nn.ParameterList or nn.ParameterDict"
    )
