"""A training run that can be slowed down, so that things can happen to its cluster while it goes on.

    python cluster_paced.py CONFIG RUN_DIR [KEY=VALUE ...]

While the working folder holds a file ``slow``, every meta-step is followed by a pause, and the run does not end.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import distmeta

PAUSE = 0.5
"""Seconds."""

RESERVE = 20
"""Meta-steps that are left for when the file is gone."""


def main() -> None:
    file, folder, *overrides = sys.argv[1:]
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    config = distmeta.load_config(file, overrides)
    for record in distmeta.train(config, folder):
        if Path("slow").exists():
            time.sleep(PAUSE)
        while record.step == config.run.steps - RESERVE and Path("slow").exists():
            time.sleep(PAUSE)


if __name__ == "__main__":
    try:
        main()
    except distmeta.DistmetaError as error:
        sys.exit(f"error: {error}")
