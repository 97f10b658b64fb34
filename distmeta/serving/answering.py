"""What a replica computes: adaptations and predictions, those that come together in one call."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.exceptions import RayError
from torch import Tensor

from distmeta.adaptations import Support
from distmeta.core.records import Data
from distmeta.errors import ConfigError
from distmeta.runs.inference import AdaptedModel, MetaLearner
from distmeta.serving.batcher import Batcher
from distmeta.serving.bodies import BadRequest, Body, refused, targets_of
from distmeta.serving.models import PackedModel
from distmeta.serving.settings import ServeSettings

log = logging.getLogger("ray.serve")

MODELS_HERE = 256
"""Models that a replica keeps at hand, beside the store."""

REFRESH_EVERY = 1.0
"""Seconds after which a replica tells the store which models it has answered with, and hears which are kept no more."""


@dataclass
class _Here:
    """A model at hand."""

    model: AdaptedModel
    classes: list[Any] | None


class Answers:
    """Adapts and predicts for requests.

    Args:
        learner: of the service.
        settings: of the service.
        store: handle of a :class:`~distmeta.serving.models.ModelStore`.
        note: told of the size of each call.
    """

    def __init__(self, learner: MetaLearner, settings: ServeSettings, store: Any, note: Callable[[int], None]) -> None:
        self._learner, self._settings, self._store = learner, settings, store
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._here: OrderedDict[str, _Here] = OrderedDict()
        self._used: dict[str, None] = {}  # since the store was told, the last one at the end
        self._refreshing: asyncio.Task[None] | None = None
        most, wait = settings.batch, settings.wait
        self._adapting = Batcher(partial(self._computed, self._adapt), most, wait, note)
        self._predicting = Batcher(partial(self._computed, self._predict), most, wait, note)
        self._keeping = Batcher(self._keep)

    async def adapt(self, body: Body) -> dict[str, Any]:
        """Adapt to a support set; gives the model's id and its classes."""
        if body.labels is None:
            raise BadRequest("labels: expected the class or the value of each example")
        steps = self._steps(body)
        targets, classes = targets_of(self._learner, body.labels)
        try:  # before others are computed with it
            support, count = self._learner.support_of(body.inputs, targets), self._learner.steps_of(steps)
        except ConfigError as error:
            raise refused(error) from None
        model: AdaptedModel = await self._adapting.ask(count, support)
        name = secrets.token_urlsafe(16)
        await self._keeping.ask(None, (name, PackedModel.of(model, classes)))
        self._remember(name, model, classes)
        return {"model": name, "classes": classes, "expires_in": self._settings.ttl}

    async def predict(self, body: Body, name: str) -> dict[str, Any]:
        """Predict with a model that was adapted before."""
        model, classes = await self._model(name)
        try:
            inputs = self._learner.inputs(body.inputs, "inputs")
        except ConfigError as error:
            raise refused(error) from None
        outputs: Tensor = await self._predicting.ask(None, (model, inputs))
        return told(self._learner, outputs, classes)

    async def forget(self, name: str) -> bool:
        """Forget a model; answered when replicas that have it at hand have heard of it, too."""
        self._here.pop(name, None)
        there: bool = await self._store.forget.remote(name)
        if there:
            await asyncio.sleep(2 * REFRESH_EVERY)
        return there

    async def _computed(self, compute: Callable[..., Sequence[Any]], key: Any, works: Sequence[Any]) -> Sequence[Any]:
        """What a function gives of works, in the thread for computing."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, compute, key, works)

    def _adapt(self, count: int | None, supports: Sequence[Support]) -> Sequence[AdaptedModel]:
        if self._settings.batch == 1:
            return [self._learner.adapt_support(supports[0], count)]
        return self._learner.adapt_supports(supports, count)

    def _predict(self, _: None, works: Sequence[tuple[AdaptedModel, Data]]) -> Sequence[Tensor]:
        if self._settings.batch == 1:
            model, inputs = works[0]
            return [model.predict_checked(inputs)]
        return self._learner.predict_checked([model for model, _ in works], [inputs for _, inputs in works])

    async def _keep(self, _: None, models: Sequence[tuple[str, PackedModel]]) -> Sequence[None]:
        """Give models to the store in one message."""
        await self._store.keep.remote(dict(models))
        return [None] * len(models)

    async def _model(self, name: str) -> tuple[AdaptedModel, list[Any] | None]:
        found = self._here.get(name)
        if found is None:
            kept = await self._store.find.remote(name)
            if kept is None:
                raise BadRequest("there is no such model, or it was not used for too long; adapt again", 404)
            packed: PackedModel = await kept[0]
            found = self._remember(name, packed.on(self._learner), packed.classes)
        self._here.move_to_end(name)
        self._used.pop(name, None)
        self._used[name] = None
        return found.model, found.classes

    def _remember(self, name: str, model: AdaptedModel, classes: list[Any] | None) -> _Here:
        found = self._here[name] = _Here(model, classes)
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        while len(self._here) > min(MODELS_HERE, self._settings.models):
            self._here.popitem(last=False)
        return found

    async def _refresh(self) -> None:
        """Ask the store about the models at hand, as long as there are any, instead of in every request."""
        while self._here:
            await asyncio.sleep(REFRESH_EVERY)
            used, self._used = list(self._used), {}
            try:
                gone = await self._store.refresh.remote(list(self._here), used)
            except RayError as error:  # what is at hand still answers
                log.warning("the store of models does not answer: %s", error)
                continue
            for name in gone:
                self._here.pop(name, None)

    def _steps(self, body: Body) -> int | None:
        steps = body.options.get("steps")
        if steps is None:
            return None
        if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= self._settings.steps:
            raise BadRequest(f"steps: expected a whole number, 0 to {self._settings.steps}")
        return steps


def told(learner: MetaLearner, outputs: Tensor, classes: list[Any] | None) -> dict[str, Any]:
    """Outputs as an answer: of classes the likeliest and all probabilities, else values.

    Raises:
        BadRequest: they are not finite, which no JSON can say.
    """
    if classes is not None:
        probabilities = outputs[:, : len(classes)].double().softmax(-1)  # of those that the task has
        _check_finite(probabilities)
        return {
            "predictions": [classes[place] for place in probabilities.argmax(-1).tolist()],
            "probabilities": probabilities.tolist(),
            "classes": classes,
        }
    predicted = learner.predicted(outputs)
    _check_finite(predicted)
    return {"predictions": predicted[:, 0].tolist() if predicted.shape[-1] == 1 else predicted.tolist()}


def _check_finite(said: Tensor) -> None:
    bad = (~said.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise BadRequest(
            f"inputs: the model's output for row {bad[0]} is not finite ({len(bad)} of {len(said)} rows): it was "
            "adapted to examples, or given inputs, far from those of training; scale them, or adapt in fewer steps",
            422,
        )
