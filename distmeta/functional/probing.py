"""Learning from a few forward passes what a module's structure does not show, and whether it can be relied on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, get_args

import torch
from torch import Tensor, nn

from distmeta.core.records import Inputs
from distmeta.errors import ConfigError, DistmetaError
from distmeta.functional import refusals
from distmeta.functional.conversion import Converted
from distmeta.functional.copying import is_result
from distmeta.functional.dropout import KeyedDropout
from distmeta.functional.hidden_state import StateSnapshot, holds_generator
from distmeta.functional.hints import hint
from distmeta.functional.inputs import call, map_inputs, named, tensors_in
from distmeta.functional.inspection import hookable, overlapping, views
from distmeta.functional.interception import Interception, Written
from distmeta.functional.kernels import Form
from distmeta.functional.objects import within
from distmeta.functional.places import Place
from distmeta.functional.trials import trials
from distmeta.functional.values import close, holding_values, nearby, same, shared_tensor, tensors_of
from distmeta.functional.watching import Randomness, Writes, kept_generators, storage

_ROUNDING = 1e-4
"""Relative difference of outputs that the same operations stay under."""

_LAYERS = 1e-2
"""The same for other implementations of layers, batch norms of two examples among them."""

_PLACES = 8
"""Places that are tried with other values one by one; the others are tried together."""


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
        example: inputs of N > 1 examples.
        build: gives the module newly built, to be compared with: a copy of it may share the faults of the converted
            one. ``None``: a copy.
    """

    def __init__(
        self,
        module: nn.Module,
        converted: Converted,
        parameters: Mapping[str, Tensor],
        example: Inputs,
        build: Callable[[], nn.Module] | None = None,
    ) -> None:
        self._module = module
        self._converted = converted
        self._parameters = parameters
        self._example = example
        self._build = build
        self._inputs = example
        self._generators: dict[str, list[Any]] = {}
        self._device = tensors_in(example)[0].device
        self._key = torch.zeros(2, dtype=torch.int64, device=self._device)

    def look(self, *, thoroughly: bool) -> Findings:
        """What one pass shows, and ``thoroughly`` what more of them do.

        Raises:
            ConfigError: outputs depend on randomness that no key controls or on what is left of other calls, or the
                module writes parameters, or reads them where no others can be put.
        """
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad(), kept_generators():
            findings, outputs = self._first()
            if thoroughly and isinstance(outputs, Tensor):
                self._inputs = self._typical_inputs()
                changed = self._repeat()
                self._come_between(changed)
                self._converted.forget(changed)
                self._try_later_values()
                self._look_at_views()
                self._look_at_results()
                try:
                    self._compare_with_plain()
                except DistmetaError:
                    raise
                except Exception as error:  # whatever a module raises
                    raise refusals.cannot_run(self._module, error) from error
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
        if isinstance(failure, DistmetaError):
            raise failure
        raise refusals.cannot_run(self._module, failure) from failure

    def _count(self) -> tuple[Findings, Any]:
        converted, findings = self._copy(), Findings()
        # As evaluation gives them: whoever differentiates by them is found here.
        state = converted.state({name: value.detach().clone() for name, value in self._parameters.items()})
        versions = {slot: value._version for slot, value in state.items() if value is not None}
        mode = Interception(self._key, names=state, written=converted.written)
        before = _random_state(self._device)
        with _counting(converted.module, findings, len(tensors_in(self._example)[0])), torch.no_grad():
            outputs = converted(dict(state), self._example, mode)
        if not torch.equal(before, _random_state(self._device)):
            raise refusals.random("torch's generator (torch.rand, dropout of nn.LSTM, ...)")
        written = [slot for slot, version in versions.items() if state[slot]._version != version]
        self._converted.add_updated(written)
        self._converted.differentiates = converted.differentiates
        findings.dropouts, findings.batch_norms = mode.dropouts, mode.batch_norms
        findings.task_layers = mode.batch_norms + mode.convolutions > 0
        return findings, outputs

    def _typical_inputs(self) -> Inputs:
        """Numbers between 0 and 1 where the module takes them, since zeros hide what they are multiplied with.

        Whole numbers stay as they are: which of them mean something is the module's to say.
        """
        generator = torch.Generator().manual_seed(0)

        def typical(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            return torch.rand(value.shape, generator=generator).to(value)

        inputs = map_inputs(self._example, typical)
        return self._example if self._tried(self._copy(), inputs) is None else inputs

    def _repeat(self) -> list[Place]:
        """Equal calls give equal outputs; the places that hold something else after them."""
        converted = self._copy()
        before = StateSnapshot(converted.module)
        with Randomness() as first:
            watched = self._watch(converted, self._inputs)
        once = StateSnapshot(converted.module)
        with Randomness() as second:
            self._watch(converted, self._inputs)
        try:
            self._expected = self._call(converted, self._inputs) if watched is None else watched
        except Exception as error:
            raise ConfigError(
                f"the model cannot run with gradients: {type(error).__name__}: {error}; {hint(error) or 'correct it'}"
            ) from error
        if not self._expected.requires_grad:
            raise refusals.without_derivatives()
        again = [self._call(converted, self._inputs) for _ in range(2)]
        changed = before.changes(once)
        known = {place.label for place in changed}
        changed += [place for place in before.changes(StateSnapshot(converted.module)) if place.label not in known]
        own = [f"the generator in {place.label}" for place in changed if holds_generator(place.get())]
        if sources := [*own, *first.beside(second)]:
            raise refusals.random(sources[0])
        if not all(same(self._expected, outputs) for outputs in again):
            raise refusals.stateful(changed)
        return changed

    def _come_between(self, changed: list[Place]) -> None:
        """Calls with other parameters, inputs and numbers of examples leave nothing that changes later ones."""
        converted = self._copy()
        more = map_inputs(self._inputs, lambda value: torch.cat([value, value]))
        flipped = map_inputs(self._inputs, lambda value: value.flip(0))
        for scale, inputs in ((100.0, self._inputs), (0.01, flipped), (1.0, more), (1.0, self._example)):
            self._watch(converted, inputs, scale)
        outputs = self._tried(converted, self._inputs)
        if outputs is None or not same(self._expected, outputs):
            raise refusals.stateful(changed)

    def _try_later_values(self) -> None:
        """What counters may come to changes nothing, and nothing else is kept from call to call."""
        converted = self._unrestored()
        before, after = self._one_more_call(converted)
        tried = [place for place in before.changes(after) if trials(place.get())]
        for places in [*([place] for place in tried[:_PLACES]), tried[_PLACES:]]:
            for values in zip_longest(*(trials(place.get()) for place in places)):
                outputs = self._with(converted, places, values)
                if outputs is not None and not same(self._expected, outputs):
                    raise refusals.stateful(places)
        before, after = self._one_more_call(self._copy())
        if unknown := [place for place in before.innermost(after) if not trials(place.get())]:
            raise refusals.stateful(unknown)

    def _one_more_call(self, converted: Converted) -> tuple[StateSnapshot, StateSnapshot]:
        """What is kept before and after a call that is not the first one."""
        self._tried(converted, self._inputs)
        before = StateSnapshot(converted.module)
        self._tried(converted, self._inputs)
        return before, StateSnapshot(converted.module)

    def _with(self, converted: Converted, places: list[Place], values: Sequence[Any]) -> Tensor | None:
        """Outputs where places hold other values, of which those that have run out are ``None``."""
        with suppress(Exception), ExitStack() as stack:
            for place, value in zip(places, values, strict=True):
                if value is not None:
                    stack.enter_context(place.holding(value))
            return self._call(converted, self._inputs)
        return None

    def _look_at_views(self) -> None:
        """Nothing that the module holds beside a parameter is another view of its memory, and changes with it."""
        if pair := overlapping(self._module):
            raise refusals.viewing(f"parameter {pair[1]!r}", pair[0])
        for label, path, name, parameter in views(self._module):
            converted = self._copy()
            owner = converted.module.get_submodule(path)
            own: dict[str, Any] = owner._buffers if name in owner._buffers else vars(owner)
            own[name] = torch.full_like(own[name], torch.nan)
            outputs = self._tried(converted, self._inputs)
            if outputs is None or not same(outputs, self._expected):
                raise refusals.viewing(label, parameter)

    def _look_at_results(self) -> None:
        """Nothing is read that was computed from parameters before the call, and would have to change with them."""
        for path, layer in self._module.named_modules():
            for name, value in vars(layer).items():
                if not any(map(is_result, within(value))):
                    continue
                converted = self._copy()
                copied = vars(converted.module.get_submodule(path))[name]
                for each, its in zip(within(value), within(copied), strict=True):
                    if is_result(each):
                        its.fill_(torch.nan)
                outputs = self._tried(converted, self._inputs)
                if outputs is None or not same(outputs, self._expected):
                    raise refusals.holding_results(f"{path}.{name}" if path else name)

    def _compare_with_plain(self) -> None:
        """Given other parameters, the module computes what it does when these are its own."""
        plain = self._fresh()
        self._moved = {name: nearby(value) for name, value in self._parameters.items()}
        try:
            self._plain = self._call_plainly(plain, self._moved)
        except Exception:  # these values are not for this module
            self._moved = dict(self._parameters)
            self._plain = self._call_plainly(plain, self._moved)
        # What was built first is what a list of all modules, for example, begins with.
        both = [plain] if self._build is None else [plain, self._module]
        agree = all(close(self._call_plainly(each, self._moved), self._plain, _ROUNDING) for each in both[1:])
        levels = get_args(Written)
        for written in levels[levels.index(self._converted.written) :]:
            self._converted.written = written
            outputs = self._tried(self._copy(), self._inputs, self._moved)
            if agree and outputs is not None and close(outputs, self._plain, _ROUNDING):
                return
        lost = [name for name in self._parameters if not self._arrives(both, name)]
        if self._build is not None and not same(*(self._call_plainly(self._fresh(), self._moved) for _ in range(2))):
            raise refusals.other_again("what its layers compute")
        own = dict(self._module.named_parameters())
        raise refusals.detached(lost, [f"{name}.{each}" for name in lost for each in vars(own[name])])

    def _arrives(self, plain: list[nn.Module], name: str) -> bool:
        """Whether a parameter that is given has the effect of one that the module holds."""
        moved = {**self._parameters, name: self._moved[name]}
        outputs = self._tried(self._copy(), self._inputs, moved)
        return outputs is not None and all(close(outputs, self._call_plainly(each, moved), _ROUNDING) for each in plain)

    def _fresh(self) -> nn.Module:
        """The module as plain PyTorch has it, to be called as that calls it."""
        if self._build is None:
            return self._copy().module
        module = self._build()
        if shared := shared_tensor(self._module, module):
            raise refusals.same_again(shared)
        module.to(self._device)
        refusals.check_equal(tensors_of(self._converted.module), tensors_of(module))
        return module

    def _call_plainly(self, module: nn.Module, parameters: Mapping[str, Tensor]) -> Tensor:
        # Afterwards it has its own values again: a copy that reads the module itself would follow others.
        with holding_values(module, parameters), KeyedDropout(self._key):
            return call(module, map_inputs(self._inputs, torch.clone))  # type: ignore[no-any-return]

    def _has_task_form(self) -> bool:
        """Whether the task-batched layers change nothing, as they would where ``forward`` looks at memory layouts."""
        outputs = self._tried(self._copy(), self._inputs, self._moved, "products")
        return outputs is not None and close(outputs, self._plain, _LAYERS)

    def _unrestored(self) -> Converted:
        """A copy that keeps from call to call what the module itself keeps."""
        converted = self._copy()
        converted.remember()
        return converted

    def _copy(self) -> Converted:
        """A copy whose buffers stay, whatever is written."""
        converted = copy.deepcopy(self._converted)
        converted.updated_buffers = frozenset(name for name, _ in converted.module.named_buffers())
        return converted

    def _call(
        self,
        converted: Converted,
        inputs: Inputs,
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

    def _watch(self, converted: Converted, inputs: Inputs, scale: float = 1.0) -> Tensor | None:
        """A call, ``None`` where it fails, of which is noted what it writes.

        Raises:
            ConfigError: it writes parameters.
        """
        state, inputs, outputs = converted.state(_live(self._parameters, scale)), map_inputs(inputs, torch.clone), None
        given = {slot: value for slot, value in state.items() if value is not None}
        stored = {slot: storage(value) for slot, value in given.items()}
        watch = Writes({**given, **named(inputs)})
        with suppress(Exception), watch:
            outputs = converted.run(state, inputs, Interception(self._key, names=given, written=converted.written))
        if outputs is not None and self._generators.setdefault("", watch.generators) != watch.generators:
            raise refusals.random("a torch.Generator of its own")
        written = [watch.found.pop(name, None) for name in named(inputs)]
        self._converted.writes_inputs |= any(operation is not None for operation in written)
        for slot, value in given.items():
            if state[slot] is not value or storage(value) != stored[slot]:
                watch.found.setdefault(slot, "assignment")
        for slot, operation in watch.found.items():
            if converted.is_parameter(slot):
                raise refusals.writing(slot, operation)
        self._converted.add_updated(watch.found)
        return outputs


def _live(parameters: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """Values with derivatives, as in training, that may be written in place."""
    return {name: value.detach().clone().requires_grad_() * scale for name, value in parameters.items()}


@contextmanager
def _counting(module: nn.Module, findings: Findings, examples: int) -> Iterator[None]:
    """Count what the innermost layers give for each of so many examples."""

    def count(layer: nn.Module, inputs: Any, outputs: Any) -> None:
        findings.activations += outputs.numel() // examples if isinstance(outputs, Tensor) else 0

    leaves = [layer for layer in module.modules() if not any(layer.children()) and hookable(layer)]
    hooks = [layer.register_forward_hook(count) for layer in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
