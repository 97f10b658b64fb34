"""distmeta: distributed meta-training of any PyTorch module on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distmeta.config.schema import Config
    from distmeta.errors import DistmetaError
    from distmeta.loading import load_config
    from distmeta.runs.adapting import adapt
    from distmeta.runs.callbacks import Callback
    from distmeta.runs.evaluate import evaluate
    from distmeta.runs.export import export
    from distmeta.runs.inference import AdaptedModel, MetaLearner
    from distmeta.runs.learners import load
    from distmeta.runs.train import train
    from distmeta.sweeps.tune import tune
    from distmeta.version import __version__
else:
    from distmeta.core.lazy import lazily

    __getattr__ = lazily(
        __name__,
        {
            "AdaptedModel": "runs.inference:AdaptedModel",
            "Callback": "runs.callbacks:Callback",
            "Config": "config.schema:Config",
            "DistmetaError": "errors:DistmetaError",
            "MetaLearner": "runs.inference:MetaLearner",
            "__version__": "version:__version__",
            "adapt": "runs.adapting:adapt",
            "evaluate": "runs.evaluate:evaluate",
            "export": "runs.export:export",
            "load": "runs.learners:load",
            "load_config": "loading:load_config",
            "train": "runs.train:train",
            "tune": "sweeps.tune:tune",
        },
    )

__all__ = [
    "AdaptedModel",
    "Callback",
    "Config",
    "DistmetaError",
    "MetaLearner",
    "__version__",
    "adapt",
    "evaluate",
    "export",
    "load",
    "load_config",
    "train",
    "tune",
]
