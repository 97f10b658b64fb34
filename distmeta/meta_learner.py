"""A trained meta-learner for use: adapt it to a few examples of your own, then predict."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.adaptations import Batch, Support
from distmeta.config import Config
from distmeta.errors import ConfigError
from distmeta.evaluate import load_snapshot
from distmeta.layout import Meta
from distmeta.programs.assembly import Assembly
from distmeta.tasks import TASKS

Statistics = Literal["support", "query"]


class AdaptedModel:
    """The solution of one task."""

    def __init__(self, learner: MetaLearner, support: Support, adapted: Any) -> None:
        self._learner = learner
        self._support = support
        self._adapted = adapted

    def predict(self, x: Tensor, statistics: Statistics = "support") -> Tensor:
        """The network's outputs for new inputs.

        Args:
            x: (N, ...) inputs like those of the support set.
            statistics: which examples' statistics normalise the inputs, in networks with batch statistics: those of the
                support set (a prediction then depends on its own input alone), or of ``x`` itself (transductive, the
                published protocol of MAML).

        Returns:
            (N, ways) logits of the classes, or (N, D) predicted values.
        """
        parts, meta = self._learner.parts, self._learner.meta
        batch = Batch({"x": self._learner.inputs(x, "x")})
        with torch.no_grad():
            if statistics == "support" and parts.network.uses_batch_statistics:
                return parts.adaptation.predict_inductive(meta, self._adapted, self._support, batch)
            return parts.adaptation.predict(meta, self._adapted, batch)


class MetaLearner:
    """Meta-parameters with the adaptation that they were trained for; :func:`load` makes one."""

    def __init__(self, config: Config, meta: Meta, device: str | torch.device = "cpu") -> None:
        self.config = config
        self.parts = Assembly(config)
        self._family = TASKS[config.tasks.kind]
        self.parts.network.to(torch.device(device))
        self._device = torch.device(device)
        self.meta = {name: value.to(self._device) for name, value in meta.items()}

    def tensor(self, values: Any) -> Tensor:
        """Inputs as a tensor on the learner's device, floating-point ones in float32."""
        tensor = torch.as_tensor(values, device=self._device)
        return tensor.float() if tensor.is_floating_point() else tensor

    def adapt(self, x_support: Tensor, y_support: Tensor, steps: int | None = None) -> AdaptedModel:
        """Adapt to one task.

        Args:
            x_support: (S, ...) inputs; for images, strokes or intensities in [0, 1] as in training.
            y_support: (S,) class indices 0, 1, ..., ways - 1, or (S, D) values.
            steps: inner steps; as in the run's evaluation by default.

        Raises:
            ConfigError: shapes or labels that do not fit the model.
        """
        x, y = self.inputs(x_support, "x_support"), self.tensor(y_support)
        if len(x) != len(y) or len(x) == 0:
            raise ConfigError(
                f"the support set has {len(x)} inputs and {len(y)} targets; give one target for each input"
            )
        ways = self._ways(y) if self.parts.objective.classes else None
        if self.parts.objective.classes:
            y = y.long()
        else:
            self._check_values(y)
        count = steps if steps is not None else self.config.evaluation.inner_steps
        support = Support({"x": x, "y": y}, ways)
        adapted = self.parts.adaptation.adapt(self.meta, support, count)
        return AdaptedModel(self, support, tree_map(torch.detach, adapted))

    def inputs(self, values: Any, name: str) -> Tensor:
        """Inputs of the shape that the tasks have, as a tensor."""
        x, shape = self.tensor(values), self._family.input_shape(self.config.tasks)
        if x.dim() == 0 or tuple(x.shape[1:]) != shape:
            raise ConfigError(
                f"{name} should have the shape (N, {', '.join(map(str, shape))}), as in training, but has "
                f"{tuple(x.shape)}"
            )
        return x

    def _check_values(self, y: Tensor) -> None:
        outputs = self._family.outputs(self.config.tasks)
        if y.dim() != 2 or y.shape[1] != outputs:
            raise ConfigError(f"y_support should have the shape (S, {outputs}), but has {tuple(y.shape)}")

    def _ways(self, y: Tensor) -> int:
        """The number of classes of a support set, checked."""
        if y.dim() != 1 or y.is_floating_point() or y.min() < 0:
            raise ConfigError(
                f"y_support holds class indices: expected (S,) integers 0, 1, ..., got "
                f"{y.dtype} of shape {tuple(y.shape)}"
            )
        ways = int(y.max()) + 1
        if self.parts.adaptation.needs_head:
            allowed = self.config.evaluation.ways
            assert allowed is not None
            if ways > allowed:
                raise ConfigError(
                    f"y_support names class {ways - 1}, but the model was trained for {allowed} ways: "
                    f"0 to {allowed - 1}"
                )
            return allowed
        missing = sorted(set(range(ways)) - set(y.tolist()))
        if missing:
            raise ConfigError(
                f"y_support has no example of class {missing[0]}; number the classes 0, 1, ... without gaps"
            )
        return ways


def load(
    location: str | Path,
    overrides: Iterable[str] = (),
    *,
    device: str | torch.device = "cpu",
    trust_code: bool = False,
) -> MetaLearner:
    """A trained meta-learner from a run directory (its best-validation checkpoint, else its last) or a checkpoint.

    Args:
        location: a path or a URI.
        overrides: ``key=value`` changes to the run's configuration.
        device: where to adapt and predict.
        trust_code: run the code that the run's configuration names (``module:``). Without it that is refused, unless an
            override names the same code, or it lies in the working directory as the run recorded it.

    Raises:
        StorageError: there is no usable checkpoint.
        ConfigError: an override is wrong, or changes what is meta-learned.
        TrustError: the run names code that nobody has allowed; none of it was run.

    Example::

        learner = distmeta.load("runs/sinusoid_maml")
        model = learner.adapt(x_support, y_support)  # (5, 1), (5, 1)
        y = model.predict(x)  # (N, 1)
    """
    snapshot, config = load_snapshot(location, overrides, trust_code=trust_code)
    return MetaLearner(config, snapshot.meta, device)
