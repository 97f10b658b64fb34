"""Several Ray nodes on this machine's own address: no root needed, but files and network are shared.

:class:`LightCluster` runs this file as a program, as Ray's ``Cluster`` wants a main thread and settings of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cluster_eye import drain, nodes, requested
from cluster_programs import RAY, Running, python_path


class LightCluster:
    """A cluster of nodes that come and go.

    Args:
        folder: where the programs that use it work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "work").mkdir(parents=True)
        self._count = 0
        self._temporary = tempfile.mkdtemp(
            prefix="ray-"
        )  # short: Ray's sockets lie in it, and their names have a limit
        self._environment = {**os.environ, **RAY, "RAY_TMPDIR": self._temporary, "PYTHONPATH": python_path()}
        self._environment.pop("RAY_ADDRESS", None)
        self._environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray takes 127.0.0.1 for an outer address
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address: str = self._ask("address")

    def start(self, *command: str | Path) -> Running:
        """Start a program in the working folder."""
        self._count += 1
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**self._environment, "PATH": path}
        return Running.start(command, self.folder / f"program-{self._count}", self.folder / "work", environment)

    def add(self, cpus: int) -> str:
        """A node joins; gives its id."""
        node: str = self._ask("add", cpus)
        return node

    def remove(self, node: str) -> None:
        """A node's processes are killed."""
        self._ask("remove", node)

    def alive(self) -> list[str]:
        """The ids of the nodes that are alive."""
        return [node["id"] for node in self._ask("nodes")]

    def drain(self, node: str, seconds: float) -> None:
        """Announce that a node ends so many seconds from now."""
        assert self._ask("drain", node, seconds) is True

    def requested(self) -> list[dict[str, float]]:
        """The resources that the autoscaler is asked for."""
        bundles: list[dict[str, float]] = self._ask("requested")
        return bundles

    def _ask(self, *question: object) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(question), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End all nodes."""
        self._server.communicate()
        shutil.rmtree(self._temporary, ignore_errors=True)


def serve() -> None:
    """Answer questions, one JSON line each, until there are no more."""
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    answers = sys.stdout
    sys.stdout = sys.stderr  # Ray prints too
    own = {"node_ip_address": "127.0.0.1", "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **own})
    gcs = GcsClient(address=cluster.address)
    added: dict[str, Any] = {}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer: Any = None
        if name == "add":
            node = cluster.add_node(num_cpus=arguments[0], **own)
            added[node.node_id] = node
            answer = node.node_id
        elif name == "remove":
            cluster.remove_node(added.pop(arguments[0]), allow_graceful=False)
        elif name == "address":
            answer = cluster.address
        else:
            answer = {"nodes": nodes, "drain": drain, "requested": requested}[name](gcs, *arguments)
        print(json.dumps(answer), file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
