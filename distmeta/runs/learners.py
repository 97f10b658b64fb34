"""Trained meta-learners from runs and checkpoints, of the kind that their tasks need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from distmeta.config.schema import Config
from distmeta.core.layout import Meta
from distmeta.core.plan import Plan, Running
from distmeta.runs import artefact
from distmeta.runs.evaluate import load_snapshot
from distmeta.runs.inference import MetaLearner
from distmeta.runs.policies import PolicyLearner
from distmeta.runs.recurrent_policies import RecurrentLearner
from distmeta.storage.files import Storage
from distmeta.tasks.options import EnvironmentOptions


def load(
    location: str | Path,
    overrides: Iterable[str] = (),
    *,
    device: str | torch.device = "cpu",
    trust_code: bool = False,
) -> MetaLearner:
    """A trained meta-learner from a run directory (its best-validation checkpoint, else its last), a checkpoint, or an
    artefact of :func:`~distmeta.runs.export.export`.

    Frozen weights and buffers of an artefact are those that were exported, whatever its network's code makes of them
    here.

    Args:
        location: a path or a URI; ``hf://owner/name`` or ``hf://owner/name@revision`` for an artefact on the Hugging
            Face hub.
        overrides: ``key=value`` changes to the run's configuration.
        device: where to adapt and predict.
        trust_code: run the code that the run's configuration names (``module:``). Without it that is refused, unless an
            override names the same code, or it lies in the working directory as the run recorded it. An artefact brings
            its code, which is then imported from it.

    Raises:
        StorageError: there is no usable checkpoint.
        ConfigError: an override is wrong, or changes what is meta-learned.
        TrustError: the run names code that nobody has allowed; none of it was run.

    Example::

        learner = distmeta.load("runs/sinusoid_maml")
        model = learner.adapt(x_support, y_support)  # (5, 1), (5, 1)
        y = model.predict(x)  # (N, 1)

    Of a run with reinforcement-learning tasks it is a :class:`~distmeta.runs.policies.PolicyLearner`, or, where the
    policy has a memory, a :class:`~distmeta.runs.recurrent_policies.RecurrentLearner`.
    """
    location = artefact.fetched(location)
    snapshot, config = load_snapshot(location, overrides, trust_code=trust_code)
    learner = learner_of(config, snapshot.meta, device, Plan.from_dict(snapshot.plan).running)
    if artefact.is_artefact(Storage.at(location)):
        learner.restore(snapshot.module_state)
    return learner


def learner_of(config: Config, meta: Meta, device: str | torch.device, running: Running) -> MetaLearner:
    """The learner of the kind that a configuration's tasks need."""
    kind = MetaLearner
    if isinstance(config.tasks, EnvironmentOptions):
        kind = RecurrentLearner if config.algorithm.adaptation == "recurrent" else PolicyLearner
    return kind(config, meta, device, running)
