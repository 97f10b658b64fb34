"""A store that is larger than what a process may have in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distmeta.tasks.images import HELD_BYTES

HELPER = Path(__file__).parents[1] / "helpers" / "large_store.py"


@pytest.mark.slow
def test_building_and_training_take_no_memory_for_the_images(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this machine has no /proc, which tells a process's memory")
    environment = {**os.environ, "DISTMETA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HELPER), str(tmp_path), "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["store"]["bytes"] > 2 * HELD_BYTES
    assert figures["store"]["pieces"] > 20
    assert figures["building"]["resident"] < 1e9
    # Pages of the mapped file that training has looked at are shared, and the system takes them back: not counted.
    assert figures["training"]["own"] < 1.5e9
