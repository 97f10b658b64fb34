"""What a run measures, as gauges of the Ray cluster that it runs on."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping

from ray.util.metrics import Gauge

REFRESH = 5.0
"""Seconds between repetitions of the last values: Ray drops a gauge that was not set for two of its reports (20 s)."""


REPORTER = "distmeta-ray-metrics"
"""The name of the thread that repeats them."""


class Reporter:
    """Sets a Ray gauge for every value, tagged with the run's name.

    Ray gives them to Prometheus at every node's metrics port, under ``ray_`` and the name of :func:`gauge_name`. They
    are there as long as the run goes on, however long its steps take.

    Args:
        name: the run's name, the value of the tag ``run``.

    >>> reporter = Reporter("first")
    >>> reporter.report({"tasks_per_second": 120.0})
    >>> reporter.close()
    """

    def __init__(self, name: str) -> None:
        self._tags = {"run": name}
        self._gauges: dict[str, Gauge] = {}
        self._values: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=REPORTER, daemon=True)
        self._thread.start()

    def report(self, values: Mapping[str, float]) -> None:
        """Set the gauges of these values; others stay as they are.

        A value that is not finite is not shown, and neither is the value that it replaces.
        """
        with self._lock:
            for name in values.keys() - self._gauges.keys():
                self._gauges[name] = Gauge(gauge_name(name), f"{name} of a distmeta run", ("run",))
            self._values.update((name, float(value)) for name, value in values.items())
            self._set()

    def close(self) -> None:
        """Let the gauges go; Ray forgets them soon."""
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(REFRESH):
            with self._lock:
                self._set()

    def _set(self) -> None:
        for name, value in self._values.items():
            if math.isfinite(value):
                self._gauges[name].set(value, self._tags)


def gauge_name(name: str) -> str:
    """What Ray calls a value; Prometheus sees ``ray_`` before it.

    >>> gauge_name("share/compute")
    'distmeta_share_compute'
    """
    return "distmeta_" + re.sub(r"\W", "_", name, flags=re.ASCII)
