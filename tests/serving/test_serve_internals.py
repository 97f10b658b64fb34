"""Names of Ray Serve that it does not promise to keep: each is there, as it is used."""

from __future__ import annotations

import inspect

import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("starlette")

from ray.serve import context  # noqa: E402
from ray.serve._private import api, client, constants, haproxy_templates, replica  # noqa: E402


def gone(name: str, where: str) -> str:
    return f"Ray {ray.__version__} has no {name} any more: change distmeta.serving.{where}"


def test_where_serve_listens() -> None:
    """Its effect is tested in tests/system/test_serving_beside.py."""
    assert "raise_if_no_controller_running" in inspect.signature(context._get_global_client).parameters
    assert isinstance(client.ServeControllerClient.http_config, property), gone("http_config", "internals.listening")


def test_the_replicas_grpc_server() -> None:
    """Its effect is tested in tests/system/test_serving.py."""
    used = inspect.getsource(replica).count("add_port_to_grpc_server(self._server")
    assert used == 1, gone("add_port_to_grpc_server", "internals.without_back_door")
    assert constants.RAY_SERVE_PROXY_USE_GRPC is False


def test_the_method_that_makes_routes() -> None:
    assert "__serve_build_asgi_app__" in inspect.getsource(api) + inspect.getsource(replica), gone(
        "__serve_build_asgi_app__", "service.Service"
    )


@pytest.mark.parametrize(
    "line",
    [
        "    option httplog",
        "    http-reuse always",
        "    bind :{{ config.metrics_port }}",
        "  bind *:{{ config.stats_port }}",
    ],
)
def test_lines_of_haproxys_configuration(line: str) -> None:
    lines = haproxy_templates.HAPROXY_CONFIG_TEMPLATE.splitlines()
    assert line in lines, gone(line.strip(), "haproxy.mended")


def test_variables_of_haproxy() -> None:
    from distmeta.serving import proxy

    source = inspect.getsource(constants)
    for name in inspect.getsource(proxy._variables).split('"'):
        if name.startswith("RAY_SERVE_"):
            assert f'"{name}"' in source, gone(name, "proxy")
    assert all(f'"{name}"' in source for name in (proxy.SWITCH, proxy.PROGRAM))
