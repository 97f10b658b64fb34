"""The Ray that a run starts by itself: on loopback, with a token of its own, and nothing of it is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration_helpers import SINUSOID
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

RUN = """
import json, os, stat, sys
from pathlib import Path
import yaml
import distmeta

def children(pid):
    found = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and parent(p) == pid]
    return found + [deeper for each in found for deeper in children(each)]

def parent(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0

def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace(chr(0), " ")
    except OSError:
        return ""

def workers():
    return [pid for pid in children(os.getpid()) if command(pid).startswith("ray::RayWorker")]

def listening():
    sockets = set()
    for pid in [os.getpid(), *children(os.getpid())]:
        try:
            sockets |= {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            pass
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.append(fields[1].split(":"))
    return found

import ray
from subprocess import run
before, told = dict(os.environ), {}
config = distmeta.load_config(yaml.safe_load(sys.argv[1]), ["cluster.workers=1", "run.steps=3"])
for record in distmeta.train(config, sys.argv[2]):
    if record.step == 2:
        told["listening"] = listening()
        told["workers"] = sorted(os.getpriority(os.PRIO_PROCESS, pid) for pid in workers())
        told["processes"] = [command(pid) for pid in children(os.getpid())]
        gcs = ray.get_runtime_context().gcs_address
        told["mode"], path = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN_PATH")
        if path and path not in before.values():
            token = Path(path)
            told["modes"] = [stat.S_IMODE(each.stat().st_mode) for each in (token, token.parent)]
            told["token"], told["folder"] = token.read_text(), str(token.parent)
        client = [sys.executable, "-c", sys.argv[3], gcs, told.get("token", "")]
        told["asked"] = json.loads(run(client, capture_output=True, text=True, check=True).stdout)
told["environment"] = {k: [before.get(k), os.environ.get(k)] for k in before.keys() | os.environ.keys()
                       if before.get(k) != os.environ.get(k) and k != "CRC32C_SW_MODE"}
told["left"] = "folder" in told and Path(told["folder"]).exists()
print(json.dumps(told))
"""

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, in IPv4 and IPv6, and ::1, as the kernel writes them."""

UNUSED = ("monitor.py", "dashboard/dashboard.py")
"""Processes of Ray that a private cluster has no use for."""

CLIENT = """
import json, sys
import grpc

def ask(address, token):
    channel = grpc.insecure_channel(address)
    call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", None, None)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        return len(call(b"", metadata=metadata, timeout=20)) > 0
    except grpc.RpcError as error:
        return error.code().name

address, token = sys.argv[1:]
print(json.dumps([ask(address, ""), ask(address, "wrong" * 13), ask(address, token)]))
"""


def run(folder: Path, **variables: str) -> dict[str, Any]:
    ours = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", RUN, yaml.safe_dump(SINUSOID), str(folder / "run"), CLIENT],
        env={**environment, "HOME": str(folder), **variables},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_a_private_ray(tmp_path: Path) -> None:
    told = run(tmp_path)
    assert told["mode"] == "token"
    assert told["modes"] == [0o600, 0o700]
    assert told["asked"] == ["UNAUTHENTICATED", "UNAUTHENTICATED", True]
    addresses, ports = zip(*told["listening"], strict=True)
    assert len(ports) >= 4
    assert f"{DEFAULT_DASHBOARD_AGENT_LISTEN_PORT:04X}" not in ports  # every Ray of a machine would wait for it
    assert set(addresses) <= LOOPBACK
    assert told["workers"] == [os.getpriority(os.PRIO_PROCESS, 0)]
    assert [each for each in told["processes"] if any(name in each for name in UNUSED)] == []
    assert sum(each.startswith(("ray::RayWorker", "ray::IDLE")) for each in told["processes"]) == 1
    assert told["environment"] == {}
    assert told["left"] is False
    assert not (tmp_path / ".ray").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_what_the_user_says_is_obeyed(mode: str, tmp_path: Path) -> None:
    token = "0123456789abcdef" * 4
    told = run(tmp_path, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN=token)
    assert told["mode"] == mode
    assert "token" not in told
    assert told["asked"][0] == (True if mode == "disabled" else "UNAUTHENTICATED")
    assert told["environment"] == {}
