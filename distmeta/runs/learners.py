"""Trained meta-learners from runs and checkpoints, of the kind that their tasks need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from distmeta.config.schema import Config
from distmeta.core.layout import Meta
from distmeta.core.plan import Plan, Running
from distmeta.runs.evaluate import load_snapshot
from distmeta.runs.inference import MetaLearner
from distmeta.runs.policies import PolicyLearner
from distmeta.runs.recurrent_policies import RecurrentLearner
from distmeta.tasks.options import EnvironmentOptions


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

    Of a run with reinforcement-learning tasks it is a :class:`~distmeta.runs.policies.PolicyLearner`, or, where the
    policy has a memory, a :class:`~distmeta.runs.recurrent_policies.RecurrentLearner`.
    """
    snapshot, config = load_snapshot(location, overrides, trust_code=trust_code)
    return learner_of(config, snapshot.meta, device, Plan.from_dict(snapshot.plan).running)


def learner_of(config: Config, meta: Meta, device: str | torch.device, running: Running) -> MetaLearner:
    """The learner of the kind that a configuration's tasks need."""
    kind = MetaLearner
    if isinstance(config.tasks, EnvironmentOptions):
        kind = RecurrentLearner if config.algorithm.adaptation == "recurrent" else PolicyLearner
    return kind(config, meta, device, running)
