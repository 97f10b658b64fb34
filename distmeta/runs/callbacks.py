"""Who is told of a run as it goes: Weights & Biases, MLflow, and callbacks of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distmeta.config.importing import own_entry, raised
from distmeta.config.modules import PREFIX
from distmeta.config.schema import Config, written_values
from distmeta.core.lazy import find
from distmeta.core.records import StepRecord
from distmeta.core.secrets import mask, without_secrets
from distmeta.errors import ConfigError
from distmeta.runs.metrics import flat

log = logging.getLogger(__name__)

PLACES = {"wandb": "distmeta.runs.trackers:WeightsAndBiases", "mlflow": "distmeta.runs.trackers:MLflow"}


class Callback:
    """Is told of a run, in the driver's process; a class of your own overrides what it needs.

    It is named in a configuration by ``callbacks: [module:mine.Callback]`` and made without arguments. What it raises
    is told as a warning, and it is told nothing more; the run goes on.

    Example::

        class Announce(distmeta.Callback):
            def end(self, result):
                if result is not None:
                    print(result["meta_test"]["accuracy"]["mean"])
    """

    def begin(self, name: str, location: str, config: Mapping[str, Any]) -> None:
        """The run begins, or goes on: its name, its directory, and its configuration as JSON values."""

    def step(self, values: Mapping[str, float]) -> None:
        """A meta-step is done: what it measured, by the names of ``metrics.jsonl``."""

    def end(self, result: Mapping[str, Any] | None) -> None:
        """The run ends: the content of ``result.json``, or ``None`` where something ended it before."""


class Callbacks:
    """All callbacks of a run.

    Args:
        config: of the run.
        location: its directory, for people.

    Raises:
        ConfigError: one cannot be imported or made, or its package is missing.
    """

    def __init__(self, config: Config, location: str) -> None:
        self._told = {name: _made(name, f"callbacks[{place}]") for place, name in enumerate(config.callbacks)}
        values = without_secrets(written_values(config))
        self._all(lambda each: each.begin(config.name, mask(location), values))

    def step(self, record: StepRecord) -> None:
        """Tell all of a meta-step."""
        if self._told:
            values = flat(record)
            self._all(lambda each: each.step(values))

    def end(self, result: Mapping[str, Any] | None) -> None:
        """Tell all of the end."""
        self._all(lambda each: each.end(result))

    def _all(self, call: Callable[[Callback], None]) -> None:
        for name, each in [*self._told.items()]:
            try:
                call(each)
            except Exception as error:  # of the user's code, or of a service: it is not worth a run
                log.warning("%s raised %s; it is told nothing more of this run", name, raised(error))
                del self._told[name]


def _made(name: str, key: str) -> Callback:
    kind: Any
    if name.startswith(PREFIX):
        kind = own_entry(name, key, "a class of callbacks", functions=False)
    else:
        kind = find(PLACES[name])
    missing = [each for each in ("begin", "step", "end") if not callable(getattr(kind, each, None))]
    if missing:
        raise ConfigError(f"{key} = {name!r}: it has no method {missing[0]}; let it be a distmeta.Callback")
    try:
        made: Callback = kind()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key} = {name!r}: making it raised {raised(error)}") from error
    return made


__all__: Sequence[str] = ("Callback", "Callbacks")
