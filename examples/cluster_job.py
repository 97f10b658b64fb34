"""Train on a Ray cluster as a job, follow it, and show its result.

python examples/cluster_job.py ADDRESS [KEY=VALUE]...     ADDRESS: of the cluster's dashboard, http://HEAD:8265
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

CONFIG = {
    "name": "sinusoid",
    "tasks": {"kind": "sinusoid", "shots": 10, "queries": 10},
    "model": {"kind": "mlp", "hidden": [40, 40]},
    "algorithm": {"name": "maml", "inner_lr": 0.01},
    "run": {"steps": 2000, "meta_batch": 64, "tasks_per_shard": 8, "validate_every": 500},
    "cluster": {"workers": "auto"},  # all that the cluster holds, also what joins later
}


def distmeta(*arguments: str) -> str:
    """A command of distmeta, as a shell runs it; what it prints is shown as it comes."""
    command = [sys.executable, "-m", "distmeta", *arguments]
    shown = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            shown.append(line)
    if process.returncode:
        sys.exit(process.returncode)
    return "".join(shown)


def main(address: str, *overrides: str) -> None:
    """Submit the run, follow it to its end, and list the cluster's jobs."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(yaml.safe_dump(CONFIG))
        distmeta("submit", str(config), *overrides, "--address", address)
    distmeta("jobs", "--address", address)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
