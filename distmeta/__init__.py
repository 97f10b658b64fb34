"""distmeta: distributed meta-training of any PyTorch module on Ray."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distmeta.config.schema import Config, load_config
    from distmeta.errors import DistmetaError
    from distmeta.runs.evaluate import evaluate
    from distmeta.runs.inference import AdaptedModel, MetaLearner, load
    from distmeta.runs.train import train
    from distmeta.sweeps.search import tune
    from distmeta.version import __version__
else:
    from distmeta.core.registry import lazily

    __getattr__ = lazily(
        __name__,
        {
            "AdaptedModel": "meta_learner:AdaptedModel",
            "Config": "config:Config",
            "DistmetaError": "errors:DistmetaError",
            "MetaLearner": "meta_learner:MetaLearner",
            "__version__": "version:__version__",
            "evaluate": "evaluate:evaluate",
            "load": "meta_learner:load",
            "load_config": "config:load_config",
            "train": "train:train",
            "tune": "tune:tune",
        },
    )

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


class _Package(ModuleType):
    """Some of its functions are called as their modules are: to import the module must not replace the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
