"""distmeta: distributed meta-training of any PyTorch module on Ray."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from distmeta.config import Config, load_config
from distmeta.errors import DistmetaError
from distmeta.evaluate import evaluate
from distmeta.meta_learner import AdaptedModel, MetaLearner, load
from distmeta.train import train
from distmeta.tune import tune

try:
    __version__ = version("distmeta")
except PackageNotFoundError:  # run from its sources, not installed
    __version__ = "unknown"

__all__ = [
    "AdaptedModel",
    "Config",
    "DistmetaError",
    "MetaLearner",
    "__version__",
    "evaluate",
    "load",
    "load_config",
    "train",
    "tune",
]
