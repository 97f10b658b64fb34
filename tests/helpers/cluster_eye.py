"""Tells what a Ray cluster knows: a program on its head's host that answers questions, one JSON line each.

    python cluster_eye.py 10.77.0.1:6379

It is no driver, so that it neither counts as a job nor holds anything.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
from ray.core.generated.gcs_pb2 import GcsNodeInfo


def connect(address: str, patience: float = 60.0) -> GcsClient:
    """A client of the cluster, as soon as there is one."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return GcsClient(address=address)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def nodes(gcs: GcsClient) -> list[dict[str, str]]:
    """The nodes that are alive."""
    known = gcs.get_all_node_info().items()
    return [
        {"id": node.hex(), "address": info.node_manager_address}
        for node, info in known
        if info.state == GcsNodeInfo.GcsNodeState.ALIVE
    ]


def drain(gcs: GcsClient, node: str, seconds: float) -> bool:
    """As a cloud announces that it takes a machine back."""
    deadline = int((time.time() + seconds) * 1000)
    accepted, _ = gcs.drain_node(node, DRAIN_NODE_REASON_PREEMPTION, "taken back", deadline)
    return bool(accepted)


def requested(gcs: GcsClient) -> list[dict[str, float]]:
    """Where Ray's own ``request_resources`` writes, and its autoscaler reads."""
    found = gcs.internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None)
    bundles: list[dict[str, float]] = json.loads(found) if found else []
    return bundles


def main() -> None:
    gcs = connect(sys.argv[1])
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer: Any = {"nodes": nodes, "drain": drain, "requested": requested}[name](gcs, *arguments)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
