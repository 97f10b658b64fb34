"""A service on a Ray that serves something else too."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from job_helpers import free_ports

from distmeta.errors import ClusterError
from distmeta.loading import load_config
from distmeta.programs.engine.assembly import Assembly
from distmeta.runs.inference import MetaLearner
from distmeta.serving.settings import ServeSettings
from distmeta.serving.starting import _check_free, serving

pytest.importorskip("starlette")

SETTINGS = ServeSettings(None, batch=1)


def small_learner() -> MetaLearner:
    config = load_config(
        {
            "tasks": {"kind": "sinusoid"},
            "model": {"kind": "mlp", "hidden": [4]},
            "algorithm": {"name": "maml", "inner_lr": 0.1, "inner_steps": 1},
        }
    )
    return MetaLearner(config, Assembly(config).initial_meta())


@pytest.fixture
def elsewhere(ray_cluster: None) -> Iterator[int]:
    """Another application at ``/other``; gives its port."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    port = free_ports(1)[0]

    @serve.deployment
    class Other:
        async def __call__(self, _: Any) -> str:
            return "the other's"

    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    serve.run(Other.bind(), name="other", route_prefix="/other")
    yield port
    serve.shutdown()


@pytest.mark.slow
def test_of_a_ray_that_serves_nothing_else_all_of_serve_ends(ray_cluster: None) -> None:
    """So the next service may listen elsewhere."""
    for port in free_ports(2):
        with serving(small_learner(), SETTINGS, port=port) as address:
            assert requests.get(f"{address}/health", timeout=30).json() == {"status": "ok"}
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{address}/health", timeout=30)


def test_beside_another_application(elsewhere: int) -> None:
    wrong = free_ports(1)[0]
    with (
        pytest.raises(
            ClusterError, match=rf"127.0.0.1:{wrong}: .* listens at 127.0.0.1:{elsewhere} .*--port {elsewhere}"
        ),
        serving(small_learner(), SETTINGS, port=wrong),
    ):
        pass
    other = f"http://127.0.0.1:{elsewhere}/other"
    with serving(small_learner(), SETTINGS, port=elsewhere) as address:
        assert requests.get(f"{address}/health", timeout=30).json() == {"status": "ok"}
        assert requests.get(other, timeout=30).text == "the other's"
    assert requests.get(other, timeout=30).text == "the other's"
    assert requests.get(f"{address}/health", timeout=30).status_code == 404


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"127.0.0.1:{port} \(Address already in use\); choose another --port"):
            _check_free("127.0.0.1", port)
    _check_free("127.0.0.1", port)
    with pytest.raises(ClusterError, match=r"nowhere.invalid:8000 \("):
        _check_free("nowhere.invalid", 8000)
