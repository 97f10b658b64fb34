"""Builds a store of made-up images and trains from it, in this process; says how much memory was its own at most.

``python large_store.py FOLDER GIGABYTES``: prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

SIZE = 84
CLASSES = {"train": 16, "validation": 6, "test": 6}


class MadeUp:
    """So many gigabytes of images, each of its own colour, made as they are asked for."""

    name = "made up"

    def __init__(self, gigabytes: float) -> None:
        self.each = int(gigabytes * 1e9 / (SIZE * SIZE * 3) / sum(CLASSES.values()))

    def fingerprint(self) -> str:
        return f"made up {self.each}"

    def entries(self, stack: ExitStack) -> list:
        from distmeta.data.images.sources import ImageEntry

        noise = np.random.default_rng(0).integers(0, 128, (SIZE, SIZE, 3), dtype=np.uint8)
        found = []
        for split, count in CLASSES.items():
            for index in range(count):
                for number in range(self.each):
                    colour = np.array([7 * index, number % 128, number // 128], np.uint8)
                    found.append(
                        ImageEntry(f"{split}-{index:02}", split, str(number), lambda colour=colour: noise + colour)
                    )
        return found


class Watch:
    """The most memory of this process: its own (``RssAnon``), and all that is resident, mapped files included."""

    def __init__(self) -> None:
        self.own = self.resident = 0
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.own = max(self.own, int(lines["RssAnon"].split()[0]) * 1024)
            self.resident = max(self.resident, int(lines["VmRSS"].split()[0]) * 1024)

    def end(self) -> dict[str, int]:
        self._ended.set()
        return {"own": self.own, "resident": self.resident}


def main(folder: Path, gigabytes: float) -> None:
    import distmeta
    from distmeta.data.images.build import StoreSettings, build_images
    from distmeta.data.store import EpisodeStore

    path = folder / "images.arrow"
    began, watch = time.monotonic(), Watch()
    build_images(MadeUp(gigabytes), path, StoreSettings((SIZE, SIZE)))
    built = {"seconds": time.monotonic() - began, **watch.end()}
    store = EpisodeStore.open(path)
    facts = {"bytes": store.nbytes, "pieces": len(store.pieces), "images": len(store)}
    config = {
        "name": "large",
        "tasks": {"kind": "images", "root": str(path), "size": SIZE, "ways": 5, "queries": 5},
        "model": {"kind": "conv4", "filters": 8, "downsample": "pool"},
        "algorithm": {"name": "protonet"},
        "run": {"steps": 10, "meta_batch": 4, "tasks_per_shard": 2, "device": "cpu"},
        "evaluation": {"tasks": 8},
    }
    began, watch = time.monotonic(), Watch()
    for _ in distmeta.train(distmeta.load_config(config), str(folder / "run")):
        pass
    trained = {"seconds": time.monotonic() - began, **watch.end()}
    print(json.dumps({"store": facts, "building": built, "training": trained}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
