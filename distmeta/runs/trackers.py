"""Callbacks for services that track runs; each takes its settings from its own environment variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from distmeta.errors import ConfigError
from distmeta.runs.callbacks import Callback
from distmeta.runs.directory import flattened

LONGEST_PARAMETER = 500
"""Characters of a parameter that MLflow takes."""


class WeightsAndBiases(Callback):
    """Weights & Biases: ``WANDB_PROJECT`` (``distmeta`` by default), ``WANDB_MODE`` and its other variables say how."""

    def __init__(self) -> None:
        self._wandb = _package("wandb")

    def begin(self, name: str, location: str, config: Mapping[str, Any]) -> None:
        """Begin a run there."""
        self._run = self._wandb.init(name=name, config=dict(config), notes=location)

    def step(self, values: Mapping[str, float]) -> None:
        """Log the values at their step."""
        self._run.log(dict(values), step=int(values["step"]))

    def end(self, result: Mapping[str, Any] | None) -> None:
        """Put the meta-test into the summary, and end the run there."""
        for name, mean in _figures(result):
            self._run.summary[name] = mean
        self._run.finish(exit_code=0 if result is not None else 1)


class MLflow(Callback):
    """MLflow: ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and its other variables say where."""

    def __init__(self) -> None:
        self._mlflow = _package("mlflow")

    def begin(self, name: str, location: str, config: Mapping[str, Any]) -> None:
        """Begin a run there, with the settings as its parameters."""
        self._mlflow.start_run(run_name=name, tags={"run_directory": location})
        parameters = {key: str(value)[:LONGEST_PARAMETER] for key, value in flattened(config)}
        self._mlflow.log_params(parameters)

    def step(self, values: Mapping[str, float]) -> None:
        """Log the values at their step."""
        plain = {name: float(value) for name, value in values.items() if name != "step"}
        self._mlflow.log_metrics(plain, step=int(values["step"]))

    def end(self, result: Mapping[str, Any] | None) -> None:
        """Log the meta-test, and end the run there."""
        self._mlflow.log_metrics(dict(_figures(result)))
        self._mlflow.end_run(status="FINISHED" if result is not None else "FAILED")


def _figures(result: Mapping[str, Any] | None) -> Iterator[tuple[str, float]]:
    for name, value in (result or {}).get("meta_test", {}).items():
        if isinstance(value, Mapping) and value.get("mean") is not None:
            yield f"meta_test/{name}", float(value["mean"])


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"callbacks: {name} needs an extra package: pip install distmeta[{name}]") from None
