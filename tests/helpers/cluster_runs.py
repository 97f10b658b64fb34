"""Runs on the hosts: started, watched, compared with the same run in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from cluster_hosts import Hosts
from cluster_programs import HERE, Done, Running
from integration_helpers import GLYPHS, SINUSOID, logged, parameters, result_of
from torch import Tensor

PLAIN = ("engine.compile=none", "engine.layers=products")
"""Nothing to compile: a host that has just been set up needs no time for it."""

LONG = 100
"""Meta-steps of the runs that something happens to."""

BASES = {"glyphs": GLYPHS, "sinusoid": SINUSOID}


def settings(base: Mapping[str, Any], *overrides: str) -> list[str]:
    """The overrides of a run, the same on hosts and in this process."""
    return [*PLAIN, *overrides] if base["tasks"]["kind"] != "sinusoid" else ["engine.compile=none", *overrides]


@dataclass(frozen=True)
class Reference:
    """A run in this process."""

    result: dict[str, Any]
    lines: list[dict[str, Any]]
    parameters: dict[str, Tensor]


class Place(Protocol):
    """Where programs run: a host, or this machine.

    Attributes:
        folder: as this process sees it; the programs work in ``work`` in it.
    """

    folder: Path

    def start(self, *command: str | Path) -> Running:
        """Start a program."""
        ...


class Run:
    """A run on a host: ``distmeta train``, or the same at a pace that the test sets.

    Args:
        place: the driver's.
        name: of the run's folder in the working folder.
        paced: start slowly; :meth:`hurry` ends that.
    """

    def __init__(self, place: Place, name: str, base: Mapping[str, Any], *overrides: str, paced: bool = False) -> None:
        work = place.folder / "work"
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
        self.program = place.start(*command, *settings(base, *overrides))

    def hurry(self) -> None:
        """No more pauses."""
        self._slow.unlink(missing_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        """The steps that are logged so far."""
        with suppress(FileNotFoundError, ValueError):  # not there yet, or half written
            return logged(self.folder)
        return []

    def step(self) -> int:
        return int(self.last().get("step", 0))

    def reach(self, step: int) -> None:
        """Wait until this step is logged."""
        self.program.until(self.step, lambda seen: seen >= step)

    def advance(self, steps: int = 3) -> None:
        """Wait until it has done some more steps."""
        self.reach(self.step() + steps)

    def last(self) -> dict[str, Any]:
        """The step that was logged last."""
        lines = self.lines()
        return lines[-1] if lines else {}

    def reach_value(self, name: str, value: int) -> dict[str, Any]:
        """Wait until it logs this value, for example of ``workers``; gives the step's line."""
        return self.program.until(self.last, lambda line: line.get(name) == value)

    def end(self) -> dict[str, Any]:
        """Its result, once it has ended well."""
        self.hurry()
        self.done: Done = self.program.end().succeeded()
        return result_of(self.folder)

    def parameters(self, steps: int) -> dict[str, Tensor]:
        return parameters(self.folder, steps)


def on_cluster(workers: str = "auto", address: str = Hosts.cluster) -> list[str]:
    """The settings of a run on a cluster, the hosts' unless another is named."""
    patient = "cluster.hang_seconds=300"  # a busy machine makes slow workers; here none of them hangs
    return [f"cluster.address={address}", f"cluster.workers={workers}", patient]


def decided(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logged steps without what depends on time, place and faults."""
    other = ("seconds", "tasks_per_second", "workers")
    return [
        {key: line[key] for key in line if key not in other and not key.startswith(("share/", "faults/"))}
        for line in lines
    ]
