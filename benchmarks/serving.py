"""Load on a service: answers a second and their times, batched, one by one, and of several replicas; all are compared.

    python benchmarks/serving.py RUN_OR_ARTEFACT [--clients 200] [--seconds 60] [--fuzz 10000]

Clients of this machine send what a person's page sends: a support set, then queries, of random images. An answer is
wrong where a probability differs by more than 1e-3 from what the same learner gives for the same task alone. Memory is
what the service's processes have for themselves, beside the models that it keeps in Ray's store, after a third of the
time, and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop
from common import write

import distmeta
from distmeta.runs.inference import MetaLearner
from distmeta.serving.settings import ServeSettings
from distmeta.serving.starting import serving
from distmeta.tasks import TASKS as TASKS_OF

TOKEN = "benchmark-token-of-this-run"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
TASKS = 64
TOLERANCE = 1e-3
OURS = ("ray::ServeReplica:distmeta", "ray::ProxyActor", "ray::HAProxy", "ray::ModelStore", "ray::ServeController")
MODES = {"batched": (32, 1), "one by one": (1, 1), "batched by {} replicas": (32, None)}
"""Requests that are computed together at most, and replicas."""


@dataclass
class Case:
    """A task, and what the learner alone predicts in it."""

    support: bytes
    query: bytes
    expected: np.ndarray


@dataclass
class Found:
    """What clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"adapt": [], "predict": []})
    wrong: int = 0
    failed: int = 0


def cases(learner: MetaLearner) -> list[Case]:
    """Tasks of random images."""
    from PIL import Image

    shape: Any = learner.parts.spec.inputs
    channels, height, width = shape.shape
    ways = learner.ways or 5
    family = TASKS_OF[learner.config.tasks.kind]
    found = []
    for seed in range(TASKS):
        draw = np.random.default_rng(seed)
        files = []
        for _ in range(ways + 1):
            pixels = draw.integers(0, 256, (height, width, channels), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(stream, "PNG")
            files.append(stream.getvalue())
        images = torch.stack([family.picture(learner.config.tasks, file) for file in files])
        model = learner.adapt(images[:ways], torch.arange(ways))
        expected = model.predict(images[ways:]).double().softmax(-1).numpy()
        texts = [base64.b64encode(file).decode() for file in files]
        support = {"images": texts[:ways], "labels": list(range(ways))}
        query = {"images": texts[ways:]}
        found.append(Case(json.dumps(support).encode(), json.dumps(query).encode(), expected))
    return found


async def client(session: Any, address: str, known: list[Case], number: int, end: float, found: Found) -> None:
    """Adapts, and predicts three times with each model, until the time is over."""
    draw = random.Random(number)
    while time.monotonic() < end:
        case = draw.choice(known)
        adapted = await ask(session, f"{address}/adapt", case.support, found, "adapt")
        if adapted is None:
            continue
        for _ in range(3):
            answer = await ask(session, f"{address}/predict?model={adapted['model']}", case.query, found, "predict")
            if answer is not None:
                far = np.abs(np.asarray(answer["probabilities"]) - case.expected).max() > TOLERANCE
                found.wrong += int(far)


async def ask(session: Any, url: str, body: bytes, found: Found, route: str) -> Any:
    """One answer."""
    began = time.perf_counter()
    async with session.post(url, data=body, headers={**HEADERS, "Content-Type": "application/json"}) as answer:
        content = await answer.read()
        found.seconds[route].append(time.perf_counter() - began)
        if answer.status != 200:
            found.failed += 1
            return None
        return json.loads(content)


async def load(address: str, known: list[Case], clients: int, seconds: float) -> tuple[Found, list[list[float]]]:
    """All clients at once; gives what they saw, and the service's memory after a third, and at the end."""
    import aiohttp

    found, memory = Found(), []
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        end = time.monotonic() + seconds
        running = [asyncio.create_task(client(session, address, known, n, end, found)) for n in range(clients)]
        await asyncio.sleep(seconds / 3)
        memory.append([private(), await kept(session, address)])
        await asyncio.gather(*running)
        memory.append([private(), await kept(session, address)])
    return found, memory


def private() -> float:
    """MB that the service's processes do not share with others."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_text()
            if name.startswith(OURS) or "/haproxy\0" in name:
                resident, shared = map(int, (path.parent / "statm").read_text().split()[1:3])
                total += (resident - shared) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # it has ended
            continue
    return total / 1e6


async def kept(session: Any, address: str) -> float:
    """MB of the models that the service keeps."""
    async with session.get(f"{address}/metrics", headers=HEADERS) as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("distmeta_models_bytes ")) / 1e6


async def fuzz(address: str, count: int) -> dict[int, int]:
    """Requests that are nearly right; gives how many answers there were of each status."""
    import aiohttp

    sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / each) for each in ("system", "helpers")]
    from test_serving import fuzzed  # type: ignore[import-not-found,unused-ignore]

    found: dict[int, int] = {}
    places = asyncio.Semaphore(64)

    async def one(session: Any, seed: int) -> None:
        draw = random.Random(seed)
        content, kind = fuzzed(draw)
        path = draw.choice(["/adapt", "/predict", "/predict?model=x", "/models/x"])
        headers = {"Content-Type": kind, **({} if draw.random() < 0.1 else HEADERS)}
        async with places, session.post(f"{address}{path}", data=content, headers=headers) as answer:
            await answer.read()
            found[answer.status] = found.get(answer.status, 0) + 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:
        await asyncio.gather(*(one(session, seed) for seed in range(count)))
    return dict(sorted(found.items()))


def told(found: Found, seconds: float) -> dict[str, Any]:
    """Rates and times."""
    rows: dict[str, Any] = {"wrong": found.wrong, "failed": found.failed}
    rows["answers_a_second"] = sum(map(len, found.seconds.values())) / seconds
    for route, times in found.seconds.items():
        cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
        rows[route] = {"count": len(times), **{f"p{at}_ms": 1000 * cuts[at - 1] for at in (50, 95, 99)}}
    return rows


def main() -> None:
    """Measure, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learner")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--replicas", type=int, default=2, help="of the last of three loads")
    parser.add_argument("--models", type=int, default=1_000, help="kept at most, so that memory is steady soon")
    parser.add_argument("--fuzz", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    learner = distmeta.load(options.learner)
    known = cases(learner)
    result: dict[str, Any] = {}
    for mode, (batch, replicas) in MODES.items():
        name = mode.format(options.replicas)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = ServeSettings(TOKEN, batch=batch, models=options.models)
        with serving(learner, settings, port=port, replicas=replicas or options.replicas) as address:
            uvloop.run(load(address, known, options.clients, 3))  # what is not recorded yet
            found, memory = uvloop.run(load(address, known, options.clients, options.seconds))
            result[name] = {**told(found, options.seconds), "memory_mb": memory}
            if mode == "batched" and options.fuzz:
                result["fuzzed"] = uvloop.run(fuzz(address, options.fuzz))
    result["ratio"] = result["batched"]["answers_a_second"] / result["one by one"]["answers_a_second"]
    print(json.dumps(result, indent=1))
    write(options.json, "serving", result)


if __name__ == "__main__":
    main()
