"""The tutorial's commands, word for word; only the service's port and token are this test's own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
INSTALLING, SERVING, ASKING = "make setup", "distmeta serve", "examples/ask_service.py"
TOKEN = "the-token-of-this-test"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_runs_word_for_word(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert BLOCKS[0].startswith(INSTALLING)  # `make test` has done that
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": programs, "RAY_AUTH_MODE": "disabled", "DISTMETA_SERVE_TOKEN": TOKEN}
    environment = {**os.environ, **own, "DISTMETA_CACHE": str(tmp_path / "cache")}
    environment.pop("RAY_ADDRESS", None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    service: subprocess.Popen[str] | None = None
    said = ""
    try:
        for block in BLOCKS[1:]:
            command = block.strip().replace("8000", port).replace("TOKEN", TOKEN)
            if SERVING in block:
                service = subprocess.Popen(
                    ["bash", "-ec", f"exec {command}"],
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                assert service.stdout is not None
                while "token: " not in (line := service.stdout.readline()):
                    assert line, "the service has ended"
                continue
            done = subprocess.run(
                ["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
    finally:
        if service is not None:
            os.kill(service.pid, signal.SIGINT)
            service.wait(60)
            time.sleep(0.1)
    assert "report: runs/pictures/report.html" in said
    assert "12 predictions of 1 tasks: predictions.parquet" in said
    right = re.search(r"(\d+) of 12 are right", said)
    assert right is not None
    assert int(right[1]) >= 10
    written = ("shown.png", "runs/pictures/report.html", "artefact/README.md", "artefact/programs/adapt_predict.pt2")
    assert all((tmp_path / name).exists() for name in written)
