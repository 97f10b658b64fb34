"""A trained meta-learner for use: adapt it to a few examples of your own, then predict."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from distmeta.adaptations import Batch, Iterative, Support
from distmeta.config.schema import Config, written_values
from distmeta.core.layout import Meta
from distmeta.core.records import Inputs
from distmeta.errors import ConfigError
from distmeta.loading import load_config
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
        if statistics not in get_args(Statistics):
            raise ConfigError(f"statistics = {statistics!r}: expected one of {', '.join(get_args(Statistics))}")
        with self._learner.computing() as parts:
            batch = Batch(self._learner.inputs(x, "x"))
            meta, adapted = self._learner.meta, self._adapted
            if statistics == "support" and self._support is not None:
                outputs = parts.adaptation.predict_inductive(meta, adapted, self._support, batch)
            else:
                outputs = parts.adaptation.predict(meta, adapted, batch)
            return self._learner.outputs(outputs)


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

    Raises:
        ConfigError: there is no such device, or the network cannot be built.
    """

    def __init__(self, config: Config, meta: Meta, device: str | torch.device = "cpu") -> None:
        self.config = config
        self._device = _device(device)
        self.parts = self._assembly(config)
        self.parts.network.to(self._device)
        self.meta = {name: value.to(self._device) for name, value in meta.items()}
        self._replicas = Replicas(self.parts)
        self._inputs = TaskInputs(config, self.parts, self._device)

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
        count = self._steps(steps)
        with self.computing() as parts:
            support = self._inputs.support(x_support, y_support)
            if parts.adaptation.iterative:
                assert count is not None
                adapted = cast(Iterative, parts.adaptation).descend(self.meta, support, count)
            else:
                adapted = parts.adaptation.adapt(self.meta, support, count)
            given = {name: value for name, value in support.data.items() if name != "y"}
            kept = support._replace(data=given) if parts.network.uses_batch_statistics else None
            return AdaptedModel(self, kept, adapted)

    def inputs(self, values: Any, name: str) -> dict[str, Tensor]:
        """Inputs as the tasks have them, in new tensors on the learner's device."""
        return self._inputs.inputs(values, name)

    def outputs(self, outputs: Tensor) -> Tensor:
        """A network's outputs as the tasks have them: values in their unit."""
        return self._inputs.outputs(outputs)

    @contextmanager
    def computing(self) -> Iterator[Assembly]:
        """The learner's parts for one call, in a thread of any kind: without derivatives of what the call gives."""
        # Under inference_mode, which the caller may have on, no inner gradient could be taken.
        with self._replicas.borrow() as parts, torch.inference_mode(False), torch.no_grad():
            yield parts

    def _steps(self, steps: int | None) -> int | None:
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

    def __getstate__(self) -> dict[str, Any]:
        # Copies: a view would take everything that it is a view of with it.
        return {
            "config": written_values(self.config),
            "fitted": self.config.tasks.fitted,
            "meta": _copies(self.meta),
            "constants": _copies(self.parts.network.constants()),
            "device": str(self._device),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        device = torch.device(state["device"])
        if device.type == "cuda" and not torch.cuda.is_available():
            log.warning("the learner was pickled on %s, which is not here: it computes on the CPU", device)
            device = torch.device("cpu")
        config = with_fitted(load_config(state["config"]), state.get("fitted"))
        self.__init__(config, state["meta"], device)  # type: ignore[misc]
        for name, value in self.parts.network.constants().items():
            value.copy_(state["constants"][name])


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
