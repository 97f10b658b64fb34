"""A training run that can be slowed down, so that things can happen to its cluster while it goes on.

    python cluster_paced.py CONFIG RUN_DIR [KEY=VALUE ...]

While the working folder holds a file ``slow``, every meta-step is followed by a pause.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import distmeta

PAUSE = 0.2
"""Seconds."""


def main() -> None:
    config, folder, *overrides = sys.argv[1:]
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for _ in distmeta.train(distmeta.load_config(config, overrides), folder):
        if Path("slow").exists():
            time.sleep(PAUSE)


if __name__ == "__main__":
    try:
        main()
    except distmeta.DistmetaError as error:
        sys.exit(f"error: {error}")
