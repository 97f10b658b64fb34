"""Runs on the hosts: started, watched, compared with the same run in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import yaml
from cluster_hosts import HERE, Done, Host, Hosts
from integration_helpers import GLYPHS, SINUSOID, logged, parameters, result_of
from torch import Tensor

PLAIN = ("engine.compile=none", "engine.layers=products")
"""Nothing to compile: a host that has just been set up needs no time for it."""

LONG = 120
"""Meta-steps of the runs that something happens to."""

BASES = {"glyphs": GLYPHS, "sinusoid": SINUSOID}


def settings(base: Mapping[str, Any], *overrides: str) -> list[str]:
    """The overrides of a run, the same on hosts and in this process."""
    return [*PLAIN, *overrides] if base["tasks"]["kind"] != "sinusoid" else ["engine.compile=none", *overrides]


class Run:
    """A run on a host: ``distmeta train``, or the same at a pace that the test sets.

    Args:
        host: the driver's.
        name: of the run's folder in the host's working folder.
        paced: start slowly; :meth:`hurry` ends that.
    """

    def __init__(self, host: Host, name: str, base: Mapping[str, Any], *overrides: str, paced: bool = False) -> None:
        work = host.folder / "work"
        self.folder = work / name
        self._slow = work / "slow"
        config = work / f"{name}.yaml"
        config.write_text(yaml.safe_dump(dict(base)))
        if paced:
            self._slow.touch()
            command = [sys.executable, str(HERE / "cluster_paced.py"), config.name, name]
        else:
            self.hurry()
            command = ["distmeta", "train", config.name, "--run-dir", name]
        self.program = host.start(*command, *settings(base, *overrides))

    def hurry(self) -> None:
        """No more pauses."""
        self._slow.unlink(missing_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        """The steps that are logged so far."""
        with suppress(FileNotFoundError, ValueError):  # not there yet, or half written
            return logged(self.folder)
        return []

    def step(self) -> int:
        lines = self.lines()
        return lines[-1]["step"] if lines else 0

    def reach(self, step: int) -> None:
        """Wait until this step is logged."""
        self.program.until(self.step, lambda seen: seen >= step)

    def end(self) -> dict[str, Any]:
        """Its result, once it has ended well."""
        self.hurry()
        self.done: Done = self.program.end().succeeded()
        return result_of(self.folder)

    def parameters(self, steps: int) -> dict[str, Tensor]:
        return parameters(self.folder, steps)


def on_cluster(*overrides: str) -> list[str]:
    """The settings of a run on all of the cluster."""
    return [f"cluster.address={Hosts.cluster}", *(overrides or ["cluster.workers=auto"])]


def decided(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logged steps without what depends on time, place and faults."""
    other = ("seconds", "tasks_per_second", "workers")
    return [
        {key: line[key] for key in line if key not in other and not key.startswith(("share/", "faults/"))}
        for line in lines
    ]
