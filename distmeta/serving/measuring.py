"""What a replica counts, and the counts of all in Prometheus' words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds of the histogram of answers."""


class Counts:
    """Counts since the replica began.

    >>> counts = Counts()
    >>> counts.request("adapt", 200, 0.02)
    >>> "distmeta_requests_total" in counts.text({**counts.values, "models": 1.0, "models_bytes": 8.0})
    True
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def request(self, route: str, status: int, seconds: float) -> None:
        """An answer was given."""
        self._add(f"requests|{route}|{status}", 1)
        self._add(f"seconds|{route}", seconds)
        self._add(f"answers|{route}", 1)
        for edge in EDGES:
            if seconds <= edge:
                self._add(f"within|{route}|{edge}", 1)

    def batch(self, size: int) -> None:
        """Some works were computed in one call."""
        self._add("batches", 1)
        self._add("batched", size)

    def text(self, total: Mapping[str, float]) -> str:
        """Sums of all replicas in Prometheus' text format.

        Args:
            total: what :meth:`~distmeta.serving.models.ModelStore.count` gave.
        """
        from prometheus_client.core import CollectorRegistry
        from prometheus_client.exposition import generate_latest

        found = list(_families(total))

        class Collector:
            def collect(self) -> list[Any]:
                return found

        registry = CollectorRegistry()
        registry.register(Collector())
        return generate_latest(registry).decode()

    def _add(self, name: str, value: float) -> None:
        self.values[name] = self.values.get(name, 0.0) + value


def _families(total: Mapping[str, float]) -> list[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily("distmeta_requests", "Answers by route and status.", labels=["route", "status"])
    seconds = HistogramMetricFamily("distmeta_answer_seconds", "Seconds of answers by route.", labels=["route"])
    for name, value in sorted(total.items()):
        kind, *labels = name.split("|")
        if kind == "requests":
            requests.add_metric(labels, value)
        elif kind == "answers":
            route = labels[0]
            below = [(str(edge), total.get(f"within|{route}|{edge}", 0.0)) for edge in EDGES]
            seconds.add_metric([route], [*below, ("+Inf", value)], total.get(f"seconds|{route}", 0.0))
    batches = CounterMetricFamily("distmeta_batches", "Calls that computed one work or more.", total.get("batches", 0))
    batched = CounterMetricFamily("distmeta_batched", "Works that were computed in them.", total.get("batched", 0))
    models = GaugeMetricFamily("distmeta_models", "Adapted models that are kept.", total.get("models", 0))
    size = GaugeMetricFamily("distmeta_models_bytes", "Bytes of adapted models.", total.get("models_bytes", 0))
    return [requests, seconds, batches, batched, models, size]
