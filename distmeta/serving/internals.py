"""What distmeta uses of Ray Serve that Serve does not promise to keep, each name in one function.

A release of Ray that takes one away makes a test of ``tests/serving/test_serve_internals.py`` fail, which names it. The
name of a deployment's method that makes its routes is in :mod:`distmeta.serving.service`.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any

from ray.serve._private import constants, replica
from ray.serve.context import _get_global_client


def listening() -> tuple[str, int] | None:
    """Host and port of the Serve that this Ray runs; ``None`` if it runs none.

    A Ray has one Serve at most. It listens where the first caller of ``serve.start`` has said; all others are ignored.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else (str(client.http_config.host), int(client.http_config.port))


def without_back_door() -> None:
    """Let the replica that is made in this process be reached by HTTP and by Ray alone.

    Serve opens a gRPC server in each replica, at all of the machine's addresses, that unpickles what anybody sends. It
    is for those alone that talk to replicas by gRPC, which a variable of the environment asks for.
    """
    if constants.RAY_SERVE_PROXY_USE_GRPC:
        return
    add_port = replica.add_port_to_grpc_server

    def nowhere(server: Any, _: str) -> int:
        with TemporaryDirectory() as folder:  # gone with the socket in it, which nobody can find any more
            return int(add_port(server, f"unix:{os.path.join(folder, 'socket')}"))

    replica.add_port_to_grpc_server = nowhere
