"""Names of Ray that it does not promise to keep: each is there, as it is used; and none is used elsewhere."""

from __future__ import annotations

import ast
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import distmeta

ray = pytest.importorskip("ray")

from ray._private import parameter, ray_constants, worker  # noqa: E402
from ray._private.node import Node  # noqa: E402
from ray._private.state import GlobalState  # noqa: E402
from ray.job_submission import JobSubmissionClient  # noqa: E402

from distmeta.workers.ray import internals as ray_internals  # noqa: E402

PACKAGE = Path(distmeta.__file__).parent
INTERNALS = {"workers/ray/internals.py", "sweeps/tune/internals.py", "serving/internals.py"}


def gone(name: str, function: str) -> str:
    return f"Ray {ray.__version__} has no {name} any more: change distmeta.workers.ray.internals.{function}"


def test_the_loopback_switch() -> None:
    """Its effect is tested by every test that starts a private Ray: it listens on 127.0.0.1."""
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool), gone("ENABLE_RAY_CLUSTER", "on_loopback")
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(variable)
    with ray_internals.on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
        assert os.environ[variable] == "0"
    assert before == (ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(variable))


def test_the_processes_that_a_run_goes_without() -> None:
    """That none of them is started is tested in tests/system/test_private_ray.py."""
    for name in ray_internals.HELPERS:
        assert callable(getattr(Node, name, None)), gone(f"Node.{name}", "without_helpers")
    before = [getattr(Node, name) for name in ray_internals.HELPERS]
    with ray_internals.without_helpers():
        assert all(getattr(Node, name) is not start for name, start in zip(ray_internals.HELPERS, before, strict=True))
    assert [getattr(Node, name) for name in ray_internals.HELPERS] == before


def test_the_agents_port() -> None:
    """Its effect is tested in tests/system/test_private_ray.py."""
    before = parameter.RayParams
    assert before().dashboard_agent_listen_port, gone("RayParams.dashboard_agent_listen_port", "on_free_agent_port")
    with ray_internals.on_free_agent_port():
        assert parameter.RayParams(num_cpus=3).dashboard_agent_listen_port == 0
    assert parameter.RayParams is before


def test_the_token() -> None:
    """Its effect is tested in tests/system/test_private_ray.py."""
    from ray import _raylet

    assert callable(_raylet.Config.initialize), gone("Config.initialize", "forget_token")
    assert callable(_raylet.AuthenticationTokenLoader.reset_cache), gone("reset_cache", "forget_token")


def test_the_thread_that_prints_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is not connected yet shows what a connected one has."""
    names = worker.Worker().__dict__.keys() | set(dir(worker.Worker))
    for name in ("threads_stopped", "gcs_error_subscriber"):
        assert name in names or name in Path(worker.__file__).read_text(), gone(name, "silence_errors")

    class Subscriber:
        closed = False

        def close(self) -> None:
            Subscriber.closed = True

    monkeypatch.setattr(worker.global_worker, "threads_stopped", threading.Event(), raising=False)
    monkeypatch.setattr(worker.global_worker, "gcs_error_subscriber", Subscriber(), raising=False)
    ray_internals.silence_errors()
    assert Subscriber.closed
    assert worker.global_worker.threads_stopped.is_set()


@pytest.mark.parametrize(
    ("name", "function"),
    [("get_draining_nodes", "draining_nodes"), ("get_max_resources_from_cluster_config", "most_resources")],
)
def test_the_clusters_state(name: str, function: str) -> None:
    assert callable(getattr(GlobalState, name, None)), gone(name, function)


@pytest.mark.usefixtures("ray_cluster")
def test_the_clusters_state_as_it_is() -> None:
    assert ray_internals.draining_nodes() == {}
    assert ray_internals.most_resources() == {}  # there is no autoscaler


def test_every_request_of_the_job_client_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(getattr(JobSubmissionClient, "_do_request", None)), gone("_do_request", "job_client")
    given = []

    def request(self: object, *arguments: object, **options: object) -> None:
        given.append(options["timeout"])
        raise ConnectionError

    monkeypatch.setattr(JobSubmissionClient, "_do_request", request)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError):
        ray_internals.job_client((1.0, 2.0))
    assert given == [(1.0, 2.0)]


def test_the_job_clients_loggers() -> None:
    for name in ray_internals.RAY_LOGGERS:
        module = Path(ray.__file__).parent.parent / f"{name.replace('.', '/')}.py"
        assert "getLogger(__name__)" in module.read_text(), gone(f"logger {name}", "CHATTER")


def test_nothing_of_rays_own_is_used_elsewhere() -> None:
    found = {
        f"{file.relative_to(PACKAGE)}: {use}"
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).as_posix() not in INTERNALS and "ray" in file.read_text()
        for use in private_uses(ast.parse(file.read_text()))
    }
    assert found == set()


def private_uses(tree: ast.Module) -> Iterator[str]:
    """Imports of Ray's private modules, strings that name them, and in modules that import Ray others' attributes."""
    knows_ray = False
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        ours = [module for module in modules if module.split(".")[0] == "ray"]
        knows_ray |= bool(ours)
        yield from (module for module in ours if any(part.startswith("_") for part in module.split(".")))
        if isinstance(node, ast.Constant) and str(node.value).startswith(("ray._", "ray.tune._", "ray.tune.tune")):
            yield str(node.value)
    if not knows_ray:
        return
    for holder in [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]:
        yield from (f"self.{name}" for name in inherited(holder))
    for node in ast.walk(tree):
        private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if private and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield ast.unparse(node)


def inherited(holder: ast.ClassDef) -> set[str]:
    """Private attributes of ``self`` that a class reads and does not make itself."""
    made = {node.name for node in ast.walk(holder) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    read = set()
    for node in ast.walk(holder):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            (made if isinstance(node.ctx, ast.Store) else read).add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            made.add(node.target.id)
    return {name for name in read - made if name.startswith("_") and not name.startswith("__")}
