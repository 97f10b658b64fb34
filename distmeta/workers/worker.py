"""A worker: a plain class that owns one device, its threads and a program. Every transport runs this class."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from distmeta.config.schema import Config
from distmeta.core.plan import Plan
from distmeta.core.processor import processor
from distmeta.core.records import Shard
from distmeta.core.requests import MEASUREMENTS, Answer, Request, add
from distmeta.core.tree import Node, Sum
from distmeta.errors import ConfigError
from distmeta.functional.kernels.build import Unavailable, find_compiler
from distmeta.programs import open_program
from distmeta.programs.cuda import reproducible
from distmeta.programs.deciding import RunPlan
from distmeta.tasks import task_fingerprint


def pick_device(wanted: str) -> torch.device:
    """The device that ``run.device`` asks for; ``auto`` is a GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device = cuda: torch sees no CUDA device here; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation instead of giving it back to the system.

    A meta-gradient allocates and frees the same large buffers over and over; given back, each of them costs page faults
    and zeroing when it is taken again. Other C libraries have no such switch, and nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # malloc.h
        mallopt(m_mmap_threshold, 2**30)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 2**26)


def shorten_switch_interval() -> None:
    """Let a thread have Python back 0.1 ms after it asks for it, where Python's own switch interval is 5 ms.

    A thread that computes gives Python up in each operation of torch's, and would wait that long for it after each,
    while another samples, serves or hears from Ray.
    """
    sys.setswitchinterval(1e-4)


def _compiler_version() -> str | None:
    try:
        return find_compiler().version
    except Unavailable:
        return None


@functools.cache
def vendor() -> str:
    """Who made this host's processor, as Linux tells: matrix products of one instruction set round by it as well."""
    told = processor("vendor_id", "CPU implementer")
    return ", ".join(line.rpartition(":")[2].strip() for line in told)


class Worker:
    """Owns a device and computes shards on it.

    The number of CPU threads, and on a GPU how products are rounded, are settings of the process in torch;
    :meth:`close` puts the earlier ones back.
    """

    def __init__(self, config: Config) -> None:
        self.device = pick_device(config.run.device)
        if config.engine.precision == "tf32" and self.device.type == "cpu":
            raise ConfigError("engine.precision = tf32 is a mode of CUDA devices, and there is none here; use float32")
        keep_freed_memory()
        self._engine = config.engine
        self._tasks = task_fingerprint(config)
        self._put_back: Callable[[], None] = reproducible() if self.device.type == "cuda" else lambda: None
        try:
            self.program = open_program(config, self.device)
        except BaseException:
            self._put_back()
            raise
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(config.run.threads)

    def fingerprint(self) -> dict[str, Any]:
        """What decides a worker's rounding, and its tasks; workers of one run must agree on it."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return {
            "device": gpu or "cpu",
            "cpu": None if gpu else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "vendor": None if gpu else vendor(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            **self._tasks,
            **self._compiler(),
        }

    def _compiler(self) -> dict[str, Any]:
        plan = self.program.plan
        compiled = plan.layers == "native" or plan.compile == "inductor"
        return {"compiler": find_compiler().version} if compiled and self.device.type == "cpu" else {}

    def probe(self) -> Plan:
        """Decide how this run computes."""
        return self.program.probe()

    def settle(self, given: Plan | RunPlan | None) -> Plan:
        """The plan to follow: the given one, a run's own if it serves here, else one decided here.

        Args:
            given: a plan to follow; the plan of a run that is evaluated; or ``None`` at the start of a run.
        """
        if given is None:
            return self.probe()
        if isinstance(given, Plan):
            return given
        reason = given.unfit(self._engine, self.device.type, _compiler_version)
        if not reason:
            return given.plan
        plan = self.program.probe(training=False)
        return replace(plan, notes=(f"evaluated by a plan of its own, not the run's: {reason}", *plan.notes))

    def follow(self, plan: Plan) -> None:
        """Compute as the run has decided."""
        self.program.follow(plan)

    def prefetch(self, shards: Sequence[Shard]) -> None:
        """Begin to sample these shards, all of one split, in the background."""
        if shards:
            self.program.prefetch(shards[0].split, [shard.ids for shard in shards])

    def answer(self, request: Request, shards: Sequence[Shard]) -> Answer:
        """The answer for one subtree's shards, added in the tree's order; measurements are of one shard."""
        if request.measures:
            (shard,) = shards
            details = MEASUREMENTS[request.name]
            rows = self.program.evaluate(request.start, shard.split, shard.ids, details=details)
            return Answer({}, {}, shard.count, rows)
        total = Sum[Answer](len(shards), add)  # a big model's vectors of all shards would take too much memory
        for place, shard in enumerate(shards):
            self.prefetch(shards[place + 1 :])
            total.add(Node(0, place), self.program.answer(request, shard.split, shard.ids))
        return total.result()

    def close(self) -> None:
        """End what samples, and put back the process's settings."""
        self.program.close()
        torch.set_num_threads(self._threads_before)
        self._put_back()
