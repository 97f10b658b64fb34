"""Records what a service computes before it is asked, so that the first who ask do not wait for it."""

from __future__ import annotations

import logging

from distmeta.errors import DistmetaError
from distmeta.programs.batches import REPEATS
from distmeta.runs.example_support import example_support
from distmeta.runs.inference import MetaLearner

log = logging.getLogger(__name__)


def warm(learner: MetaLearner, most: int) -> None:
    """Adapt to tasks of the meta-test's shape and predict for one example, in chunks of all sizes up to ``most``."""
    support, steps = example_support(learner), learner.steps_of(None)
    given = {name: value.to(learner.device) for name, value in support.data.items()}
    support = support._replace(data=given)
    inputs = {name: value[:1] for name, value in given.items() if name != "y"}
    kept = learner.kept_of(support)
    try:
        with learner.batched() as batches:
            for size in (2**power for power in range(most.bit_length())):
                for _ in range(REPEATS + 1):
                    adapted = batches.adapt([support] * size, steps)
                    batches.predict(adapted, [kept] * size, [inputs] * size)
    except (DistmetaError, RuntimeError) as error:  # an example that means nothing may be singular
        log.warning("nothing was recorded beforehand: %s", error)
