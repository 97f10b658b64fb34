"""A trained meta-learner for use: adapt it to a few examples of your own, then predict."""

from __future__ import annotations

import logging
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from distmeta.adaptations import Batch, Iterative, Support
from distmeta.config.schema import Config, written_values
from distmeta.core.layout import Meta
from distmeta.core.plan import Running
from distmeta.core.records import Data, Inputs
from distmeta.errors import ConfigError, WrongTask
from distmeta.loading import load_config
from distmeta.programs.batches import LARGEST_CHUNK, TaskBatches
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.task_inputs import TaskInputs
from distmeta.runs.replicas import Replicas
from distmeta.tasks import with_fitted

log = logging.getLogger(__name__)

Statistics = Literal["support", "query"]


class AdaptedModel:
    """The solution of one task.

    Several threads may predict with it at once. It can be pickled: it then holds the learner, what the task changed
    and, for networks with batch statistics alone, the inputs of the support set; several that are pickled together
    hold their learner once. As for the learner, the user's own network has to be importable where it is unpickled.
    """

    def __init__(self, learner: MetaLearner, support: Support | None, adapted: Any) -> None:
        self._learner = learner
        self._support = support
        self._adapted = adapted

    def predict(self, x: Inputs, statistics: Statistics = "support") -> Tensor:
        """The network's outputs for new inputs.

        Args:
            x: (N, ...) inputs like those of the support set, N >= 1; tensors by name where the tasks have several.
            statistics: which examples' statistics normalise the inputs, in networks with batch statistics: those of the
                support set (a prediction then depends on its own input alone), or of ``x`` itself (transductive, the
                published protocol of MAML).

        Returns:
            (N, ways) logits of the classes, or (N, D) predicted values.

        Raises:
            ConfigError: inputs that do not fit the model, or unknown ``statistics``.
        """
        check_statistics(statistics)
        with torch.inference_mode(False), torch.no_grad():
            return self.predict_checked(self._learner.inputs(x, "x"), statistics)

    def predict_checked(self, inputs: Data, statistics: Statistics = "support") -> Tensor:
        """As :meth:`predict`, of inputs that :meth:`MetaLearner.inputs` gave."""
        with self._learner.computing() as parts:
            batch = Batch(inputs)
            meta, adapted = self._learner.meta, self._adapted
            if statistics == "support" and self._support is not None:
                outputs = parts.adaptation.predict_inductive(meta, adapted, self._support, batch)
            else:
                outputs = parts.adaptation.predict(meta, adapted, batch)
            return self._learner.outputs(outputs)

    def solution(self, statistics: Statistics) -> tuple[Any, Support | None]:
        """What the task changed, and the support set whose statistics normalise inputs, if any does."""
        return self._adapted, self._support if statistics == "support" else None


class MetaLearner:
    """Meta-parameters with the adaptation that they were trained for; :func:`load` makes one.

    Several threads may share it: each gets what it would get alone, and nothing that :meth:`adapt` and
    :meth:`AdaptedModel.predict` do changes the learner, the tensors that they are given, or settings of the process. It
    can be pickled and copied: it is its configuration, its parameters and the network's constants, from which the
    network is built anew.

    Args:
        config: of the run.
        meta: trained parameters.
        device: where to adapt and predict.
        running: how the run's plan computes several tasks: mapped together wherever the network allows it.

    Raises:
        ConfigError: there is no such device, or the network cannot be built.
    """

    def __init__(
        self, config: Config, meta: Meta, device: str | torch.device = "cpu", running: Running = "mapped"
    ) -> None:
        self.config = config
        self.running: Running = running
        self._device = _device(device)
        self.parts = self._assembly(config)
        self.parts.network.to(self._device)
        self.meta = {name: value.to(self._device) for name, value in meta.items()}
        self._replicas = Replicas(self.parts)
        self._inputs = TaskInputs(config, self.parts, self._device)
        self._batches: TaskBatches | None = None
        self._one_batch = threading.Lock()
        self._chunks = (LARGEST_CHUNK, True)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @staticmethod
    def _assembly(config: Config) -> Assembly:
        """The configuration's parts."""
        return Assembly(config)

    def adapt(self, x_support: Inputs, y_support: Tensor, steps: int | None = None) -> AdaptedModel:
        """Adapt to one task.

        It takes memory for one set of parameters and their gradient, however many steps there are.

        Args:
            x_support: (S, ...) inputs; for images, strokes or intensities in [0, 1] as in training. Tensors by name
                where the tasks have several.
            y_support: (S,) class indices 0, 1, ..., ways - 1, or (S, D) values.
            steps: inner steps, 0 or more; as in the run's evaluation by default. Adaptations in closed form take none.

        Raises:
            ConfigError: shapes, types, values or labels that do not fit the model, or a wrong number of steps.
        """
        count = self.steps_of(steps)
        with torch.inference_mode(False), torch.no_grad():
            support = self._inputs.support(x_support, y_support)
        return self.adapt_support(support, count)

    def adapt_support(self, support: Support, count: int | None) -> AdaptedModel:
        """As :meth:`adapt`, of what :meth:`support_of` and :meth:`steps_of` gave."""
        with self.computing() as parts:
            if parts.adaptation.iterative:
                assert count is not None
                adapted = cast(Iterative, parts.adaptation).descend(self.meta, support, count)
            else:
                adapted = parts.adaptation.adapt(self.meta, support, count)
            return AdaptedModel(self, self.kept_of(support), adapted)

    def adapt_batch(self, tasks: Iterable[tuple[Inputs, Tensor]], steps: int | None = None) -> list[AdaptedModel]:
        """Adapt to many tasks at once: those of one shape together, several times faster than one by one.

        What a task gets does not depend on the others, to the bit. :meth:`adapt`, which computes a single task without
        padding, may round otherwise.

        Args:
            tasks: ``(x_support, y_support)`` of each, as :meth:`adapt` takes them; they may have several shapes.
            steps: inner steps, as there.

        Returns:
            The tasks' models, in their order.

        Raises:
            WrongTask: what :meth:`adapt` refuses, with the number of the task, from 0.
            ConfigError: a wrong number of steps.

        Example::

            models = learner.adapt_batch([(x1, y1), (x2, y2)])
            outputs = learner.predict_batch(models, [query1, query2])
        """
        count, supports = self.steps_of(steps), []
        for number, task in enumerate(tasks):
            with _of_task(number):
                if not isinstance(task, (tuple, list)) or len(task) != 2:
                    raise ConfigError("expected (x_support, y_support)")
                supports.append(self.support_of(*task))
        return self.adapt_supports(supports, count)

    def adapt_supports(self, supports: Sequence[Support], count: int | None) -> list[AdaptedModel]:
        """As :meth:`adapt_batch`, of what :meth:`support_of` and :meth:`steps_of` gave."""
        with self.batched() as batches:
            solutions = batches.adapt(supports, count)
        return [AdaptedModel(self, self.kept_of(support), it) for support, it in zip(supports, solutions, strict=True)]

    def predict_batch(
        self, models: Sequence[AdaptedModel], inputs: Sequence[Inputs], statistics: Statistics = "support"
    ) -> list[Tensor]:
        """Predictions of many adapted models of this learner, those of one shape together.

        Args:
            models: of any of :meth:`adapt` and :meth:`adapt_batch`.
            inputs: of each model, as :meth:`AdaptedModel.predict` takes them.
            statistics: as there.

        Raises:
            WrongTask: inputs that do not fit the model, with the number of the task, from 0.
            ConfigError: unknown ``statistics``, or another number of inputs than of models.
        """
        check_statistics(statistics)
        if len(models) != len(inputs):
            raise ConfigError(f"predict_batch got {len(models)} models and inputs of {len(inputs)}; give one for each")
        checked = []
        for number, given in enumerate(inputs):
            with _of_task(number):
                checked.append(self.inputs(given, "x"))
        return self.predict_checked(models, checked, statistics)

    def predict_checked(
        self, models: Sequence[AdaptedModel], inputs: Sequence[Data], statistics: Statistics = "support"
    ) -> list[Tensor]:
        """As :meth:`predict_batch`, of inputs that :meth:`inputs` gave."""
        adapted, supports = zip(*(model.solution(statistics) for model in models), strict=True) if models else ((), ())
        with self.batched() as batches:
            return [self.outputs(outputs) for outputs in batches.predict(adapted, supports, inputs)]

    def batch_by(self, most: int, *, steady: bool = True) -> None:
        """How :meth:`adapt_batch` and :meth:`predict_batch` cut tasks into chunks, before they are first called.

        Args:
            most: tasks of a chunk at most.
            steady: whether chunks of one shape are of one size always, so that a task gets the same bits however many
                others there are. Otherwise they are as small as the tasks allow, which answers a few of them sooner;
                what a task gets may then differ by rounding.
        """
        self._chunks = (most, steady)
        self._batches = None

    @property
    def ways(self) -> int | None:
        """Classes that a task has at most; ``None`` where any number will do, or where there are none."""
        return self._inputs.ways

    def kept_of(self, support: Support) -> Support | None:
        """What of a support set predictions need."""
        if not self.parts.network.uses_batch_statistics:
            return None
        return support._replace(data={name: value for name, value in support.data.items() if name != "y"})

    @contextmanager
    def batched(self) -> Iterator[TaskBatches]:
        """Computes for many tasks, one caller after the other, with as many threads as a worker of the run."""
        with self._one_batch, torch.inference_mode(False), torch.no_grad(), threads(self.config.run.threads):
            if self._batches is None:
                parts = self.parts.replica()
                self._batches = TaskBatches(self.config, parts, self.meta, self._device, self.running, *self._chunks)
            yield self._batches

    def adapt_raw(self, support: Data, steps: int | None = None) -> Callable[[Data], Tensor]:
        """As :meth:`adapt`, for a support set as the task family samples it; the network's own outputs come back."""
        count = self.steps_of(steps)
        given = self._inputs.sampled(support)
        with self.computing() as parts:
            adapted = parts.adaptation.adapt(self.meta, given, count)

        def predict(query: Data) -> Tensor:
            with self.computing() as parts:
                batch = Batch({name: value.to(self._device) for name, value in query.items()})
                if parts.network.uses_batch_statistics:
                    return parts.adaptation.predict_inductive(self.meta, adapted, given, batch)
                return parts.adaptation.predict(self.meta, adapted, batch)

        return predict

    def support_of(self, x: Any, y: Any) -> Support:
        """A support set as the adaptation takes it; raises as :meth:`adapt`."""
        return self._inputs.support(x, y)

    def inputs(self, values: Any, name: str) -> dict[str, Tensor]:
        """Inputs as the tasks have them, in new tensors on the learner's device."""
        return self._inputs.inputs(values, name)

    def outputs(self, outputs: Tensor) -> Tensor:
        """A network's outputs as the tasks have them: values in their unit."""
        return self._inputs.outputs(outputs)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The values (N, D) that a regression's outputs predict, in the tasks' unit.

        Args:
            outputs: as :meth:`AdaptedModel.predict` gives them.
        """
        of_outputs = getattr(self.parts.objective, "predicted", None)
        values: Tensor = outputs if of_outputs is None else of_outputs(outputs)
        # Outputs that are no values yet, such as means with deviations, were not brought to the unit.
        return values if values.shape == outputs.shape else self.outputs(values)

    @contextmanager
    def computing(self) -> Iterator[Assembly]:
        """The learner's parts for one call, in a thread of any kind: without derivatives of what the call gives."""
        # Under inference_mode, which the caller may have on, no inner gradient could be taken.
        with self._replicas.borrow() as parts, torch.inference_mode(False), torch.no_grad():
            yield parts

    def steps_of(self, steps: int | None) -> int | None:
        """How many inner steps ``steps`` means; ``None`` where there are none to take.

        Raises:
            ConfigError: it is no number of steps, or the adaptation takes none.
        """
        if steps is None:
            return self.config.evaluation.inner_steps
        if not self.parts.adaptation.iterative:
            raise ConfigError(
                f"steps = {steps!r}: algorithm {self.config.algorithm.name} adapts in closed form and takes no inner "
                "steps; leave steps out"
            )
        try:
            # Torch takes True and [2] for whole numbers, too.
            number = steps.tolist() if isinstance(steps, Tensor) else steps
            count = -1 if isinstance(number, bool) else operator.index(number)
        except (TypeError, RuntimeError):  # the latter of tensors without values
            count = -1
        if count < 0:
            raise ConfigError(f"steps = {steps!r}: expected a whole number of inner steps, 0 or more")
        return count

    def restore(self, constants: Mapping[str, Tensor]) -> None:
        """Take the values of frozen weights and buffers, by their names in the network; others stay as built.

        Raises:
            ConfigError: one has another shape or type here.
        """
        for name, value in self.parts.network.constants().items():
            given = constants.get(name)
            if given is None:
                continue
            if given.shape != value.shape or given.dtype != value.dtype:
                raise ConfigError(
                    f"the network's {name} is {value.dtype} of the shape {tuple(value.shape)}, and {given.dtype} of "
                    f"{tuple(given.shape)} in what was saved; its code has changed since"
                )
            value.copy_(given)

    def __getstate__(self) -> dict[str, Any]:
        # Copies: a view would take everything that it is a view of with it.
        return {
            "config": written_values(self.config),
            "fitted": self.config.tasks.fitted,
            "meta": _copies(self.meta),
            "constants": _copies(self.parts.network.constants()),
            "device": str(self._device),
            "running": self.running,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        device = torch.device(state["device"])
        if device.type == "cuda" and not torch.cuda.is_available():
            log.warning("the learner was pickled on %s, which is not here: it computes on the CPU", device)
            device = torch.device("cpu")
        config = with_fitted(load_config(state["config"]), state.get("fitted"))
        self.__init__(config, state["meta"], device, state["running"])  # type: ignore[misc]
        self.restore(state["constants"])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads within the block: their number decides how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_statistics(statistics: str) -> None:
    """Refuse unknown ``statistics``."""
    if statistics not in get_args(Statistics):
        raise ConfigError(f"statistics = {statistics!r}: expected one of {', '.join(get_args(Statistics))}")


@contextmanager
def _of_task(number: int) -> Iterator[None]:
    """Say whose mistake it is."""
    try:
        yield
    except ConfigError as error:
        raise WrongTask(number, str(error)) from None


def _copies(tensors: Meta) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device = {name!r}: cannot compute there ({reason}); use cpu, or cuda where there is one"
        ) from None
    return device
